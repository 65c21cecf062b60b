"""What starts work."""
