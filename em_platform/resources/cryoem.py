"""The sessions of cryo-EM, as assets and sensors see them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from em_platform.config.cryoem import CryoemLimits
from em_platform.cryoem.sessions.processing import Sessions, open_sessions
from em_platform.resources.storage import Configuration


class CryoemSessions(dg.ConfigurableResource[Any]):
    """The folder of sessions, and what is made of them."""

    configuration: Configuration

    @contextmanager
    def open(self) -> Iterator[Sessions]:
        """All sessions, within a `with` block."""
        with open_sessions(self.configuration.settings()) as sessions:
            yield sessions

    def limits(self) -> CryoemLimits:
        """What the checks warn of."""
        return self.configuration.settings().cryoem.limits
