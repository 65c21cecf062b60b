"""The sessions of cryo-EM, as assets and sensors see them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg

from em_platform.config.cryoem import CryoemLimits
from em_platform.cryoem.sessions.processing import Sessions, open_sessions
from em_platform.resources.storage import Configuration

if TYPE_CHECKING:
    from em_platform.cryoem.services.step import ServiceContext


class CryoemSessions(dg.ConfigurableResource[Any]):
    """The folder of sessions, and what is made of them."""

    configuration: Configuration

    @contextmanager
    def open(self) -> Iterator[Sessions]:
        """All sessions, within a `with` block."""
        with open_sessions(self.configuration.settings()) as sessions:
            yield sessions

    @contextmanager
    def services(self) -> Iterator["ServiceContext"]:
        """Where live services put what they find, within a `with` block."""
        from em_platform.cryoem.services.local import place_of

        place = place_of(self.configuration.settings())
        try:
            yield place
        finally:
            place.close()

    def limits(self) -> CryoemLimits:
        """What the checks warn of."""
        return self.configuration.settings().cryoem.limits
