"""Where and how bytes lie."""

from em_platform.storage.store import Store, open_store, options_of, store_of

__all__ = ["Store", "open_store", "options_of", "store_of"]
