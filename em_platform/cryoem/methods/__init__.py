"""Numerics of the stages: arrays in, arrays and numbers out."""
