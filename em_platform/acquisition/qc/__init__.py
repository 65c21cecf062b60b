"""Live quality control: judges every tile, and stops the scope."""
