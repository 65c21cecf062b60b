"""Schedules."""

from collections.abc import Iterator

import dagster as dg

from em_platform.config import SourceSettings
from em_platform.errors import PlatformError
from em_platform.ingest.plan import PRIORITY, run_tags, waits_for_light
from em_platform.ingest.sources import SOURCES, settings_of
from em_platform.jobs import (
    SETTINGS_AT_LOAD,
    consolidate_catalog,
    ingest_jobs,
    stitch_montages,
)
from em_platform.partitions import BACKLOG, BLOCKING_CHECKS, items, montages
from em_platform.resources.ingest import (
    PublicSources,
    unfinished,
    unfinished_items,
    wish_for,
)
from em_platform.resources.storage import Configuration

_MOSAIC = dg.AssetKey("mosaic")
_LONGEST_PAUSE_H = 24

Requests = Iterator[dg.RunRequest | dg.SkipReason]


def unfinished_montages(instance: dg.DagsterInstance) -> list[str]:
    """Montages that have no mosaic, no run that may still make one, and may have one.

    What a check has blocked would only be blocked again: that waits for a person.
    """
    blocked = {
        each.partition_key
        for each in instance.event_log_storage.get_asset_check_partition_info(
            list(BLOCKING_CHECKS)
        )
        if each.latest_execution_status.value == "FAILED"
    }
    left = unfinished(montages, _MOSAIC, instance)
    return [key for key in left if key not in blocked]


def _is_due(key: str, instance: dg.DagsterInstance, now_s: float) -> bool:
    """Whether an hour has passed since its last run, twice that with each run more."""
    wanted = dg.RunsFilter(tags={"dagster/partition": key})
    records = instance.get_run_records(wanted)
    ended: float = max((record.end_time or 0.0 for record in records), default=0.0)
    # Half an hour less: a run that ended in this hour's first minutes counts as well.
    pause_s = 3600.0 * min(2 ** max(0, len(records) - 1), _LONGEST_PAUSE_H) - 1800.0
    return bool(now_s - ended >= pause_s)


@dg.schedule(
    job=stitch_montages,
    cron_schedule="7 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Tries failed montages again: after one hour, "
    "two, four and so on to a day.",
)
def hourly_stitch_montages(context: dg.ScheduleEvaluationContext) -> Requests:
    """Tries failed montages again: after one hour, two, four and so on to a day."""
    moment = context.scheduled_execution_time
    waiting = unfinished_montages(context.instance)
    due = [k for k in waiting if _is_due(k, context.instance, moment.timestamp())]
    if not due:
        yield dg.SkipReason(
            f"{len(waiting)} montages wait for their next try"
            if waiting
            else "every montage has its mosaic"
        )
    for key in due:
        # One run a montage and hour, however often this is asked.
        yield dg.RunRequest(
            run_key=f"{moment:%Y-%m-%d %H} {key}",
            partition_key=key,
            tags={PRIORITY: str(BACKLOG)},
        )


def _ingest_schedule(source: str) -> dg.ScheduleDefinition:
    own: SourceSettings = settings_of(source, SETTINGS_AT_LOAD)

    @dg.schedule(
        job=ingest_jobs[source],
        name=f"ingest_{source}_schedule",
        cron_schedule=own.schedule,
        execution_timezone="UTC",
        description=f"Ingests the items of {source} that are not in the catalog yet. "
        "Switch it on to have them fetched without being asked.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext,
        configuration: Configuration,
        sources: PublicSources,
    ) -> Requests:
        # Asked at each tick: the settings may have changed since Dagster loaded them.
        if source not in sources.taking_part():
            yield dg.SkipReason(f"{source} is switched off in ingest.sources")
            return
        settings = configuration.settings()
        # A source that does not answer now keeps no known item waiting.
        trouble = _add_new_items(source, sources, context.instance)
        keys = unfinished_items(source, context.instance)
        if not keys:
            done = f"every known item of {source} is in the catalog"
            yield dg.SkipReason(trouble or done)
        elif waits_for_light(source, settings):
            for key in keys:
                # Kept in Dagster's history, where the sensor finds it later.
                context.instance.report_runless_asset_event(wish_for(source, key))
            yield dg.SkipReason(
                f"{len(keys)} items wait until no light run is under way; then "
                "heavy_ingest_sensor starts them"
            )
        else:
            when = f"{context.scheduled_execution_time:%Y-%m-%d %H:%M}"
            for key in keys:
                yield dg.RunRequest(
                    run_key=f"{when} {key}",
                    partition_key=key,
                    tags=run_tags(source, settings),
                )

    return schedule


def _add_new_items(
    source: str, sources: PublicSources, instance: dg.DagsterInstance
) -> str:
    """Make partitions of what the source lists; a sentence where it does not."""
    try:
        new = sources.new_items(source, instance)
    # A tick that failed would ask for no run at all.
    except PlatformError as error:
        return str(error)
    if new:
        instance.add_dynamic_partitions(str(items[source].name), new)
    return ""


# One a source, off until it is switched on.
ingest_schedules = [_ingest_schedule(source) for source in SOURCES]

consolidate_catalog_schedule = dg.ScheduleDefinition(
    job=consolidate_catalog,
    cron_schedule=SETTINGS_AT_LOAD.catalog.schedule,
    execution_timezone="UTC",
    description="All records into one catalog, whatever made them.",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
