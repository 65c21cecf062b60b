"""Public data into OME-Zarr and the catalog."""
