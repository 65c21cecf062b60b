"""New items of public sources -> partitions; heavy ones -> runs."""

import hashlib
import json
import time
from typing import Any

import dagster as dg

from em_platform.config import SourceSettings
from em_platform.errors import PlatformError
from em_platform.ingest.plan import SOURCE, WEIGHT, run_tags, waits_for_light
from em_platform.ingest.sources import SOURCES
from em_platform.jobs import ingest_jobs
from em_platform.partitions import items
from em_platform.resources.ingest import PublicSources, runs_under_way, wishes
from em_platform.resources.storage import Configuration

# Dagster ends a tick after 60 s.
_TICK_S = 20.0
# Sources publish by the day; being asked more often helps no one.
_LOOK_AGAIN_S = 600.0
# Partitions of one tick, which must be short; the others come at the next.
_MOST_A_TICK = 500
_ALL = list(SOURCES)


@dg.sensor(
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for each item that "
    "is configured or that a source lists.",
)
def discovery_sensor(
    context: dg.SensorEvaluationContext, sources: PublicSources
) -> dg.SensorResult:
    """Adds a partition for each item that is configured or that a source lists.

    A source is asked only where it shall be searched (`discover`), nothing is fetched.
    Each is looked at every ten minutes, and when its settings change; one that is down
    says so and does not hide the others. The cursor says when each was looked at.
    """
    looked: dict[str, Any] = json.loads(context.cursor or "{}")
    begun, news, added = time.monotonic(), [], []
    for source in sources.taking_part():
        own = sources.of(source)
        if not own.items and not own.discover:
            continue  # its schedule asks it
        mark, now = _mark(own), time.time()
        before = looked.get(source, {})
        is_due = before.get("of") != mark or now - before["at"] >= _LOOK_AGAIN_S
        if not is_due or time.monotonic() - begun > _TICK_S:
            continue
        # Before it is asked: one that is down is asked again in ten minutes.
        looked[source] = {"of": mark, "at": now}
        try:
            new = sources.new_items(source, context.instance)[:_MOST_A_TICK]
        except PlatformError as error:
            news.append(str(error))
            continue
        if new:
            added.append(items[source].build_add_request(new))
            news.append(f"{source}: {len(new)} new items")
    message = "; ".join(news) or "no source has a new item"
    return dg.SensorResult(
        dynamic_partitions_requests=added,
        skip_reason=None if added else dg.SkipReason(message),
        cursor=json.dumps(looked),
    )


def _mark(own: SourceSettings) -> str:
    """Changes when the settings of a source change."""
    return hashlib.sha256(own.model_dump_json().encode()).hexdigest()[:12]


@dg.sensor(
    jobs=list(ingest_jobs.values()),
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="In the mode `staged`, starts heavy items "
    "once no light one is under way.",
)
def heavy_ingest_sensor(
    context: dg.SensorEvaluationContext, configuration: Configuration
) -> dg.SensorResult | dg.SkipReason:
    """In the mode `staged`, starts heavy items once no light one is under way.

    The schedules note which items they want; the cursor is the number of the last note
    that was followed.
    """
    after = int(context.cursor or 0)
    settings, instance = configuration.settings(), context.instance
    found = [
        (number, source, key)
        for source in SOURCES
        for number, key in wishes(source, after, instance)
    ]
    if not found:
        return dg.SkipReason("no heavy item waits")
    is_staged = any(waits_for_light(source, settings) for _, source, _ in found)
    light = runs_under_way(instance, {WEIGHT: "light", SOURCE: _ALL})
    if is_staged and light:
        return dg.SkipReason(f"{len(found)} heavy items wait for {light} light runs")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"wish {number}",  # not by item: it may be wanted again
                job_name=ingest_jobs[source].name,
                partition_key=key,
                tags=run_tags(source, settings),
            )
            for number, source, key in found
        ],
        cursor=str(max(number for number, _, _ in found)),
    )
