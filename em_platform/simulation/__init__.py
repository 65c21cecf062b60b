"""The simulated microscope: its devices, and the specimen under its beam."""
