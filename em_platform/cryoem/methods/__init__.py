"""The numerics of the stages: arrays in, arrays and numbers out, no files."""
