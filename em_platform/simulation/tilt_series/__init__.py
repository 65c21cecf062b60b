"""Cryo-EM tilt series with known truth: particles in ice, imaged as a TEM would."""
