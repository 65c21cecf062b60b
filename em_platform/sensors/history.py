"""Runs that have ended -> their step logs packed, later deleted; no run is started."""

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.scheduler.instigation import TickStatus

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
# What of its work a run was asked for.
_PARTS = (
    "dagster/partition",
    "dagster/asset_partition_range_start",
    "dagster/asset_partition_range_end",
)
_FOLLOW_S = 600.0
"""A page reads 10 minutes quickly, and each look at 10,000 montages costs seconds."""
_followed: dict[str, tuple[int, float]] = {}
"""The newest event of checks that was followed and when, by the file of the history."""
_MOST_LATER = 20
"""Later runs of a partition that are looked at; nearly always it is the first."""


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Packs the step logs of ended runs and "
    "deletes those that are too old; starts no run.",
)
def history_sensor(
    context: dg.SensorEvaluationContext, configuration: Configuration
) -> dg.SensorResult:
    """Keeps the history small and its pages quick.

    It starts no run, as that would add to the history. Made by a sensor, so that it
    goes on while all places for runs are taken. The cursor is the time up to which old
    runs were cleaned. Looks of sensors that found nothing to do go, too.
    """
    instance, own = context.instance, configuration.settings().history
    logs = instance.event_log_storage
    packed = 0
    if isinstance(logs, PackedRunLogs):  # else PostgreSQL, which has one table for all
        packed = pack_ended(instance, logs, quiet_s=60 * own.pack_after_min)
        follow_checks(context, logs)
    if own.keep_skipped_hours:
        forget_skipped(instance, before_s=time.time() - 3600 * own.keep_skipped_hours)
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


def follow_checks(context: dg.SensorEvaluationContext, logs: PackedRunLogs) -> None:
    """Read what checks have found since, so that their pages need not.

    An asset at a time, within the time of a tick: the first look at 10,000 montages
    takes seconds of each.
    """
    repository, begun = context.repository_def, time.monotonic()
    place, newest = logs.path_for_shard("index"), logs.last_check_event()
    # Where no check was ever made there is nothing to read, a second of work.
    first = (-1, -_FOLLOW_S) if newest else (0, begun)
    seen, seen_s = _followed.setdefault(place, first)
    if repository is None or newest == seen or begun - seen_s < _FOLLOW_S:
        return
    graph = repository.asset_graph
    asked = defaultdict(list)
    for key in graph.asset_check_keys:
        if (partitions := graph.get(key).partitions_def) is not None:
            asked[key.asset_key].append((key, partitions))
    with dg.partition_loading_context(dynamic_partitions_store=context.instance):
        for keys in asked.values():
            if time.monotonic() - begun > _TICK_S:
                return
            logs.get_asset_check_state(keys)
    _followed[place] = newest, begun


def forget_skipped(instance: dg.DagsterInstance, *, before_s: float) -> None:
    """Delete the looks of sensors and schedules that started nothing before a time.

    A dozen sensors look each 5 to 60 s: 60,000 rows a day, of 1.5 kB each.
    """
    for state in instance.all_instigator_state():
        instance.purge_ticks(
            state.instigator_origin_id,
            state.selector_id,
            before_s,
            tick_statuses=[TickStatus.SKIPPED],
        )


def clean_older(
    instance: dg.DagsterInstance, before: datetime, *, cursor: str | None
) -> tuple[str | None, int]:
    """Delete step logs and output of runs that ended before; a new cursor, how many.

    Of runs that did the same again, such as the catalog's, the last one is kept whole.
    """
    after = datetime.fromisoformat(cursor) if cursor else None
    found = instance.get_run_records(
        dg.RunsFilter(statuses=ENDED, updated_before=before, updated_after=after),
        limit=_MOST_A_TICK,
        order_by="update_timestamp",
        ascending=True,
    )
    for record in found:
        run = record.dagster_run
        instance.compute_log_manager.delete_logs(prefix=[run.run_id])
        if _is_superseded(instance, record):
            instance.delete_run(run.run_id)
        if isinstance(instance.event_log_storage, PackedRunLogs):
            instance.event_log_storage.forget(run.run_id)
    return (found[-1].update_timestamp.isoformat() if found else cursor), len(found)


def _is_superseded(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether a later run did all of the same with success."""
    run = record.dagster_run
    partition = run.tags.get(_PARTS[0])
    later: Sequence[dg.DagsterRun] = instance.get_runs(
        dg.RunsFilter(
            job_name=run.job_name,
            statuses=[dg.DagsterRunStatus.SUCCESS],
            tags={_PARTS[0]: partition} if partition else {},
            created_after=record.create_timestamp,
        ),
        limit=_MOST_LATER,
    )
    return any(_work_of(run) == _work_of(each) for each in later)


def _work_of(run: dg.DagsterRun) -> tuple[object, ...]:
    parts = (run.tags.get(name) for name in _PARTS)
    # A run of some steps, as after a failure, made not all of it.
    steps = tuple(run.step_keys_to_execute or ())
    return (run.asset_selection, run.asset_check_selection, steps, *parts)
