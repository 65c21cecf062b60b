"""What we hold, and whether it is in order."""
