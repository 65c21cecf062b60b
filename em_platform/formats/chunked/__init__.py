"""Zarr, N5 and precomputed volumes; see `chunked.open`."""
