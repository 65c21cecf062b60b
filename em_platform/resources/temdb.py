"""The TEM database, as assets and sensors see it."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from em_platform.resources.configuration import Configuration
from em_platform.temdb import register_of

if TYPE_CHECKING:
    from em_platform.temdb.register import Register


class TemdbResource(dg.ConfigurableResource[Any]):
    """The TEM database: the one at `temdb.url`, else our own service."""

    configuration: Configuration

    def register(self) -> "Register":
        """TEM DB; whether it answers shows at the first question."""
        return register_of(self.configuration.settings())
