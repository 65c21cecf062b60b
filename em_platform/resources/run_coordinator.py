"""Dagster's queue, in which each run has its place however it was launched."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import dagster as dg

from em_platform.config import load_settings
from em_platform.errors import ConfigError
from em_platform.ingest.plan import INGEST, PART, PRIORITY, SOURCE, job_tags
from em_platform.ingest.sources import SOURCES
from em_platform.partitions import BACKFILLED, PARTS, PRIORITIES

_MAX_RUNTIME = "dagster/max_runtime"
_BACKFILL = "dagster/backfill"


class PlatformRunCoordinator(dg.QueuedRunCoordinator):
    """Tags each run with its part, its priority and the time that it may take.

    Runs of the web UI, of backfills and of commands have no tags of their own; here all
    pass. The limits of parts stand in dagster.yaml, as do `pools` (name -> steps at
    once, where nobody has set another number in the UI) and `max_runtime_s` (part ->
    seconds).
    """

    pools: Mapping[str, int] = {}
    max_runtime_s: Mapping[str, int] = {}

    @classmethod
    def config_type(cls) -> Any:
        numbers = dg.Field(
            dg.Map(str, int),  # type: ignore[no-untyped-call]
            is_required=False,
            default_value={},
        )
        own: Mapping[str, Any] = super().config_type()  # type: ignore[assignment]
        return {**own, "pools": numbers, "max_runtime_s": numbers}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> Self:
        made = super().from_config_value(inst_data, config_value)
        made.pools = config_value["pools"]
        made.max_runtime_s = config_value["max_runtime_s"]
        return made

    def submit_run(self, context: dg.SubmitRunContext) -> dg.DagsterRun:
        run = context.dagster_run
        self._set_pools()
        tags = run_tags(run.tags, run.asset_selection or (), self.max_runtime_s)
        self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)

    def _set_pools(self) -> None:
        storage = self._instance.event_log_storage
        known = {pool.name: pool for pool in storage.get_pool_limits()}
        for name, limit in self.pools.items():
            # What someone has set in the UI stays.
            if name not in known or known[name].from_default:
                storage.set_concurrency_slots(name, limit)


def run_tags(
    tags: Mapping[str, str],
    assets: Iterable[dg.AssetKey],
    max_runtime_s: Mapping[str, int],
) -> dict[str, str]:
    """What a run with `tags` is tagged with besides; `assets` where it names some.

    What a sensor, a schedule or a person has tagged stays.
    """
    part = tags.get(PART) or _part_of(assets)
    found = _ingest_tags(assets) if part == INGEST and SOURCE not in tags else {}
    found[PART] = part
    is_backfill = _BACKFILL in tags
    found[PRIORITY] = str(BACKFILLED if is_backfill else PRIORITIES.get(part, 0))
    if part in max_runtime_s:
        found[_MAX_RUNTIME] = str(max_runtime_s[part])
    return {**found, **{name: tags[name] for name in found if name in tags}}


def _part_of(assets: Iterable[dg.AssetKey]) -> str:
    first = {key.path[0] for key in assets}
    if first & set(SOURCES):
        return INGEST
    for part, names in PARTS.items():
        if first and first <= names:
            return part
    return "montage" if first else "other"


def _ingest_tags(assets: Iterable[dg.AssetKey]) -> dict[str, str]:
    """Those of the source's job, so that catalog and sensors see the run."""
    source = next(key.path[0] for key in assets if key.path[0] in SOURCES)
    try:
        return job_tags(source, load_settings())
    # A setting that is wrong is the run's to say.
    except ConfigError:
        return {SOURCE: source}
