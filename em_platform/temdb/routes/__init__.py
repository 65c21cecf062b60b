"""What TEM DB answers, one file a kind of entity."""
