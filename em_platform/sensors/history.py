"""Runs that have ended -> their step logs packed, later deleted; no run is started."""

import time
from datetime import UTC, datetime, timedelta

import dagster as dg

from em_platform.jobs import consolidate_catalog
from em_platform.resources.run_logs import PackedRunLogs
from em_platform.resources.storage import Configuration

ENDED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]
# Dagster ends a tick after 60 s.
_TICK_S = 15.0
_MOST_A_TICK = 200


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Packs the step logs of ended runs and "
    "deletes those that are too old; starts no run.",
)
def history_sensor(
    context: dg.SensorEvaluationContext, configuration: Configuration
) -> dg.SensorResult:
    """Keeps the history small: packs step logs of ended runs, deletes those too old.

    It starts no run, as that would add to the history. Made by a sensor, so that it
    goes on while all places for runs are taken. The cursor is the time up to which old
    runs were cleaned.
    """
    instance, own = context.instance, configuration.settings().history
    logs = instance.event_log_storage
    packed = 0
    if isinstance(logs, PackedRunLogs):  # else PostgreSQL, which has one table for all
        packed = pack_ended(instance, logs, quiet_s=60 * own.pack_after_min)
    cursor, cleaned = context.cursor, 0
    if own.keep_logs_days:
        before = datetime.now(UTC) - timedelta(days=own.keep_logs_days)
        cursor, cleaned = clean_older(instance, before, cursor=context.cursor)
    return dg.SensorResult(
        skip_reason=dg.SkipReason(f"{packed} logs packed, {cleaned} old runs cleaned"),
        cursor=cursor,
    )


def pack_ended(
    instance: dg.DagsterInstance, logs: PackedRunLogs, *, quiet_s: float
) -> int:
    """Pack the logs of runs that ended, and were not looked at for so long."""
    asked = logs.unpacked(quiet_s=quiet_s)[:_MOST_A_TICK]
    if not asked:
        return 0
    ended = instance.get_runs(dg.RunsFilter(run_ids=asked, statuses=ENDED))
    begun, packed = time.monotonic(), 0
    for run in ended:
        if time.monotonic() - begun > _TICK_S:
            break
        packed += logs.pack(run.run_id)
    return packed


def clean_older(
    instance: dg.DagsterInstance, before: datetime, *, cursor: str | None
) -> tuple[str | None, int]:
    """Delete step logs and output of runs that ended before; a new cursor, how many.

    A consolidated catalog is whole in itself: of its runs only the newest is kept.
    """
    after = datetime.fromisoformat(cursor) if cursor else None
    found = instance.get_run_records(
        dg.RunsFilter(statuses=ENDED, updated_before=before, updated_after=after),
        limit=_MOST_A_TICK,
        order_by="update_timestamp",
        ascending=True,
    )
    if not found:
        return cursor, 0
    catalogs = dg.RunsFilter(job_name=consolidate_catalog.name)
    newest = {run.run_id for run in instance.get_runs(catalogs, limit=1)}
    for record in found:
        run = record.dagster_run
        instance.compute_log_manager.delete_logs(prefix=[run.run_id])
        if run.job_name == consolidate_catalog.name and run.run_id not in newest:
            instance.delete_run(run.run_id)
        if isinstance(instance.event_log_storage, PackedRunLogs):
            instance.event_log_storage.forget(run.run_id)
    return found[-1].update_timestamp.isoformat(), len(found)
