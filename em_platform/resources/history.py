"""What Dagster has done, is doing, and was asked to do later."""

from collections.abc import Mapping, Sequence

import dagster as dg

from em_platform.ingest.plan import SOURCE
from em_platform.partitions import items

_MOST_RUNS = 10
"""What so many runs could not finish waits for a person."""
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
        ascending=True,
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
