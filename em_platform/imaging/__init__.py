"""Numerical kernels: arrays in, arrays or numbers out."""
