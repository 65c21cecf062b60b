"""The public sources, and what Dagster did and was asked to do with them."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from em_platform.config import SourceSettings
from em_platform.ingest.plan import SOURCE
from em_platform.ingest.source import Source
from em_platform.ingest.sources import SOURCES, open_source, settings_of
from em_platform.model.ingest import Entry, RawItem
from em_platform.partitions import items
from em_platform.resources.storage import Configuration

# Dagster ends a tick after 60 s, in which several sources are asked.
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


# What so many runs could not finish waits for a person.
_MOST_RUNS = 10
# Wishes of one tick; the others are taken at the next.
_MOST_WISHES = 1000
_WISH = "is wanted"

_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def unfinished(
    partitions: dg.DynamicPartitionsDefinition,
    last: dg.AssetKey,
    instance: dg.DagsterInstance,
    *,
    tags: Mapping[str, str] | None = None,
) -> list[str]:
    """Partitions without the `last` asset, and without a run that may still make it.

    Runs are those with `tags`.
    """
    done = instance.get_materialized_partitions(last)
    return [
        key
        for key in instance.get_dynamic_partitions(str(partitions.name))
        if key not in done and not _is_left(key, instance, tags or {})
    ]


def unfinished_items(source: str, instance: dg.DagsterInstance) -> list[str]:
    """Known items of a source that have no record, and that no run is at."""
    last = dg.AssetKey([source, "record"])
    return unfinished(items[source], last, instance, tags={SOURCE: source})


def runs_under_way(
    instance: dg.DagsterInstance, tags: Mapping[str, str | Sequence[str]]
) -> int:
    """How many runs with these tags wait or run; of a list of values one is enough."""
    return instance.get_runs_count(dg.RunsFilter(statuses=_UNDER_WAY, tags=tags))


def wish_for(source: str, key: str) -> dg.AssetObservation:
    """A note in Dagster's history that an item shall be ingested when there is room."""
    return dg.AssetObservation(
        [source, "entry"],
        partition=key,
        description="waits until no light ingest is under way",
        metadata={_WISH: True},
    )


def wishes(
    source: str, after: int, instance: dg.DagsterInstance
) -> list[tuple[int, str]]:
    """What was noted by `wish_for` after the event of that number: number and key."""
    found = instance.fetch_observations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey([source, "entry"]), after_storage_id=after
        ),
        limit=_MOST_WISHES,
        ascending=True,  # the oldest first: the cursor passes none over
    )
    noted = [(each.storage_id, each.event_log_entry) for each in found.records]
    return [
        (number, seen.partition)
        for number, entry in noted
        if (seen := entry.asset_observation) is not None
        and seen.partition is not None
        and _WISH in seen.metadata
    ]


def _is_left(key: str, instance: dg.DagsterInstance, tags: Mapping[str, str]) -> bool:
    wanted = {"dagster/partition": key, **tags}
    runs = instance.get_runs(dg.RunsFilter(tags=wanted))
    return len(runs) >= _MOST_RUNS or any(run.status in _UNDER_WAY for run in runs)
