"""Where results lie, as assets see it."""

from typing import Any

import dagster as dg

from em_platform.resources.configuration import Configuration
from em_platform.storage import Store, store_of


class Storage(dg.ConfigurableResource[Any]):
    """The store that the settings name: a folder or an S3 bucket.

    Keys come from the settings' layers and are never part of a run's configuration.
    """

    configuration: Configuration

    def store(self) -> Store:
        """The store; what lies where in it is told by `storage.layout`."""
        return store_of(self.configuration.settings())
