"""What is simulated: a microscope with its specimen, tilt series, sections."""
