"""Kernels of the stages: arrays in, arrays or numbers out."""
