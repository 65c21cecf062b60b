"""Records that have changed -> the catalog made anew, once for many of them."""

import time
from datetime import UTC, datetime

import dagster as dg

from em_platform.ingest.plan import INGEST, PART
from em_platform.jobs import consolidate_catalog
from em_platform.partitions import CATALOG, LENS, LIVE, MONTAGE, REVIEW, SIMULATION
from em_platform.resources.ingest import runs_under_way
from em_platform.resources.storage import Configuration
from em_platform.sensors.history import ENDED

# These write no record.
_OTHERS = {CATALOG, LENS, REVIEW}
# Runs that one look asks for; of more the newest count.
_MOST = 200
# A consolidation that failed is tried again so long after the change.
_AGAIN_S = 3600.0


@dg.sensor(
    job=consolidate_catalog,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Consolidates the catalog when records have changed, once for many.",
)
def catalog_sensor(
    context: dg.SensorEvaluationContext, configuration: Configuration
) -> dg.RunRequest | dg.SkipReason:
    """Consolidates the catalog when records have changed, once for many.

    A run of a montage or an ingest that has ended has changed a record, a failed one
    too: its record says so. It waits until nothing is under way and no run has ended
    for `catalog.settle_s`, but not longer than `catalog.at_latest_s`.
    """
    instance, settings = context.instance, configuration.settings()
    if not settings.ingest.consolidate:
        return dg.SkipReason("ingest.consolidate is off")
    ends = _ends_since(_last_consolidated(instance), instance)
    if not ends:
        return dg.SkipReason("no record has changed since the last consolidation")
    now, own = time.time(), settings.catalog
    busy = runs_under_way(instance, {PART: [INGEST, LIVE, MONTAGE, SIMULATION]})
    is_quiet = not busy and now - max(ends) >= own.settle_s
    if not is_quiet and now - min(ends) < own.at_latest_s:
        return dg.SkipReason(
            f"records of {len(ends)} runs have changed, {busy} are under way; the "
            "catalog waits for what comes next"
        )
    # Dagster starts no key twice: one that failed is not tried again at once.
    hours = int((now - max(ends)) / _AGAIN_S)
    return dg.RunRequest(run_key=f"{max(ends)} {hours}")


def _ends_since(after: float, instance: dg.DagsterInstance) -> list[float]:
    """When runs that may have written a record ended, in seconds since 1970."""
    wanted = dg.RunsFilter(
        statuses=ENDED, updated_after=datetime.fromtimestamp(after, UTC)
    )
    found = instance.get_run_records(wanted, limit=_MOST, order_by="update_timestamp")
    return [
        record.end_time
        for record in found
        # A run that is tagged later counts as updated.
        if record.end_time is not None
        and record.end_time > after
        and record.dagster_run.tags.get(PART) not in _OTHERS
    ]


def _last_consolidated(instance: dg.DagsterInstance) -> float:
    """When the last consolidation began that did not fail; 0: none has."""
    statuses = [
        status
        for status in dg.DagsterRunStatus
        if status not in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    ]
    wanted = dg.RunsFilter(statuses=statuses, tags={PART: CATALOG})
    found = instance.get_run_records(wanted, limit=1)
    return found[0].create_timestamp.timestamp() if found else 0.0
