"""Many tiles, one image."""
