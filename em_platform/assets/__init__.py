"""What exists, as software-defined assets."""
