"""The public sources, as assets, schedules and sensors see them."""

import math
import time
from typing import Any

import dagster as dg

from em_platform.config import SourceSettings
from em_platform.ingest.source import Source
from em_platform.ingest.sources import SOURCES, open_source, settings_of
from em_platform.model.ingest import Entry, RawItem
from em_platform.partitions import items
from em_platform.resources.configuration import Configuration

_SOON_S = 10.0


class PublicSources(dg.ConfigurableResource[Any]):
    """Whatever the settings say of the sources; tokens are never in a run's config."""

    configuration: Configuration

    def source(self, name: str) -> Source:
        """The source of that name, which tries again as often as the settings say."""
        return open_source(name, self.configuration.settings())

    def hasty_source(self, name: str) -> Source:
        """The same, but it gives up soon: for a sensor, whose tick must be short."""
        settings = self.configuration.settings()
        transfer = settings.ingest.transfer.model_copy(
            update={"retries": 0, "timeout_s": _SOON_S}
        )
        ingest = settings.ingest.model_copy(update={"transfer": transfer})
        return open_source(name, settings.model_copy(update={"ingest": ingest}))

    def new_items(self, name: str, instance: dg.DagsterInstance) -> list[str]:
        """Keys that the source lists and that are no partitions yet.

        Raises
        ------
        SourceError
            It had to be asked and did not answer soon.
        """
        known = set(instance.get_dynamic_partitions(str(items[name].name)))
        return [key for key in self.hasty_source(name).list() if key not in known]

    def of(self, name: str) -> SourceSettings:
        """What is set for a source."""
        return settings_of(name, self.configuration.settings())

    def taking_part(self) -> list[str]:
        """The sources that are switched on, in the order of the settings."""
        settings = self.configuration.settings()
        return [
            name
            for name in settings.ingest.sources
            if name in SOURCES and settings_of(name, settings).enabled
        ]


def work_bytes(entry: Entry, raw: RawItem) -> int:
    """About as many voxels are written, or files read; whichever is more."""
    voxels = math.prod(entry.shape) if entry.shape else 0
    return max(voxels, raw.size_bytes)


class LoggedProgress:
    """A transfer's progress as lines in the log of a run, one each 10 seconds."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log
        self._total = self._came = 0
        self._next_s = time.monotonic() + _SOON_S

    def total(self, size_bytes: int) -> None:
        """So many bytes will come in all."""
        self._total += size_bytes

    def came(self, size_bytes: int) -> None:
        """So many more have come."""
        self._came += size_bytes
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _SOON_S
            self._log.info(
                "%.1f of %.1f MB fetched", self._came / 1e6, self._total / 1e6
            )
