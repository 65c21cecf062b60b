"""Takes tiles over HTTP into the store, and registers them in the TEM database."""
