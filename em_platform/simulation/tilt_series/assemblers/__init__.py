"""Assemblers: each arranges particles into the sample of a tilt series."""
