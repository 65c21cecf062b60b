"""What starts by the clock."""

from collections.abc import Iterator

import dagster as dg

from em_platform.jobs import stitch_montages
from em_platform.partitions import montages

_MOST_RUNS = 10
"""A montage that so many runs could not finish waits for a person."""

_MOSAIC = dg.AssetKey("mosaic")
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def unfinished_montages(instance: dg.DagsterInstance) -> list[str]:
    """Montages that have no mosaic, and no run that may still make one."""
    known = instance.get_dynamic_partitions(str(montages.name))
    done = instance.get_materialized_partitions(_MOSAIC)
    return [
        key for key in known if key not in done and not _is_under_way(key, instance)
    ]


def _is_under_way(key: str, instance: dg.DagsterInstance) -> bool:
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": key}))
    return len(runs) >= _MOST_RUNS or any(run.status in _UNDER_WAY for run in runs)


@dg.schedule(
    job=stitch_montages,
    cron_schedule="0 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def nightly_stitch_montages(
    context: dg.ScheduleEvaluationContext,
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Tries again, each night, the montages whose runs have failed."""
    day = f"{context.scheduled_execution_time:%Y-%m-%d}"
    unfinished = unfinished_montages(context.instance)
    if not unfinished:
        yield dg.SkipReason("every montage has its mosaic")
    for key in unfinished:
        yield dg.RunRequest(run_key=f"{day} {key}", partition_key=key)
