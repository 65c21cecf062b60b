"""In which order sources are ingested, in each of the four modes.

The orders are those of macroscope's run script; its `staged` could not finish, because
its third stage was defined nowhere.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from em_platform.config import Settings
from em_platform.config.ingest import Mode, Weight
from em_platform.ingest.sources import settings_of

# The order of docs/explanations/ingest.md; a source that is not named goes last.
_LIGHT_ORDER = ("idr", "flyem", "ebi")
_HEAVY_ORDER = ("openorganelle", "epfl")

Lane = tuple[tuple[str, ...], ...]
"""Stages one after the other; the sources of one stage run beside each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one source asks of the machine while it runs."""

    source: str
    weight: Weight
    memory_mb: int


def loads(settings: Settings, names: Sequence[str]) -> tuple[Load, ...]:
    """What the enabled ones among `names` ask for."""
    found = [(name, settings_of(name, settings)) for name in dict.fromkeys(names)]
    return tuple(
        Load(source=name, weight=own.weight, memory_mb=own.memory_limit_mb)
        for name, own in found
        if own.enabled
    )


def plan(mode: Mode, work: Sequence[Load]) -> tuple[Lane, ...]:
    """Lanes that run beside each other.

    - `staged`: all light sources at once, then each heavy one by itself.
    - `background`: the last heavy source from the start; beside it the light ones, one
      by one, and then the other heavy ones.
    - `parallel`: all at once.
    - `sequential`: one by one, in the order given.
    """
    if mode == "parallel":
        return _lanes((tuple(load.source for load in work),))
    if mode == "sequential":
        return _lanes(tuple((load.source,) for load in work))
    light = _ordered([w.source for w in work if w.weight == "light"], _LIGHT_ORDER)
    heavy = _ordered([w.source for w in work if w.weight == "heavy"], _HEAVY_ORDER)
    if mode == "staged":
        return _lanes((tuple(light), *((source,) for source in heavy)))
    chain = tuple((source,) for source in (*light, *heavy[:-1]))
    return _lanes(tuple((source,) for source in heavy[-1:]), chain)


def startable(
    lanes: Sequence[Lane],
    work: Mapping[str, Load],
    *,
    running: Collection[str],
    finished: Collection[str],
    budget_mb: float,
    most: int,
) -> tuple[str, ...]:
    """Sources that may start now.

    Those that run have at most `budget_mb` together and are at most `most`; one whose
    memory alone is beyond the budget runs by itself.
    """
    started: list[str] = []
    used = sum(work[source].memory_mb for source in running)
    for source in _due(lanes, running=running, finished=finished):
        busy = len(running) + len(started)
        memory = work[source].memory_mb
        # Where nothing runs, one that is beyond the budget may start, too.
        if busy and (busy >= most or used + memory > budget_mb):
            break  # and not a smaller one that comes later: no source shall starve
        started.append(source)
        used += memory
    return tuple(started)


def _due(
    lanes: Sequence[Lane], *, running: Collection[str], finished: Collection[str]
) -> list[str]:
    due = []
    for lane in lanes:
        stage = next((s for s in lane if not set(s) <= set(finished)), ())
        due += [s for s in stage if s not in finished and s not in running]
    return due


def _lanes(*lanes: Lane) -> tuple[Lane, ...]:
    without_empty = (tuple(stage for stage in lane if stage) for lane in lanes)
    return tuple(lane for lane in without_empty if lane)


def _ordered(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """`names` in the documented order; those that it does not name come last."""
    return sorted(names, key=lambda n: order.index(n) if n in order else len(order))


PART, SOURCE, WEIGHT, LANE = "em/part", "em/source", "em/weight", "em/lane"
MEMORY_MB, CPUS = "em/memory_mb", "em/cpus"
PRIORITY = "dagster/priority"

INGEST = "ingest"
"""Value of `em/part`: only so many ingests run beside each other."""

_PARTITIONS = {
    "ebi": "ebi_entries",
    "epfl": "epfl_files",
    "flyem": "flyem_crops",
    "idr": "idr_images",
    "openorganelle": "openorganelle_arrays",
}


def partition_set(source: str) -> str:
    """The name of the set of partitions that are the items of a source."""
    return _PARTITIONS.get(source, f"{source}_items")


def job_tags(source: str, settings: Settings) -> dict[str, str]:
    """The tags of every run of a source, from any trigger."""
    own = settings_of(source, settings)
    return {
        PART: INGEST,
        SOURCE: source,
        WEIGHT: own.weight,
        MEMORY_MB: str(own.memory_limit_mb),
        CPUS: f"{own.cpus:g}",
    }


def run_tags(source: str, settings: Settings) -> dict[str, str]:
    """The tags of a run that a schedule starts, in the execution mode."""
    stage = next(
        (
            number
            for lane in _plan(settings)
            for number, stage in enumerate(lane)
            if source in stage
        ),
        0,
    )
    return {
        **job_tags(source, settings),
        LANE: lane_of(source, settings),
        # Dagster starts the highest number first, so later stages are lower.
        PRIORITY: str(-stage),
    }


def lane_of(source: str, settings: Settings) -> str:
    """The lane of a run; runs of different lanes may go beside each other.

    sequential
        One lane for all.
    background
        One for the last heavy source, one for all others.
    staged
        Each light source has its own, all heavy ones share one.
    parallel
        Each source has its own.
    """
    mode: Mode = settings.ingest.mode
    if mode == "sequential":
        return "all"
    if mode == "background":
        beside = [n for n, lane in enumerate(_plan(settings)) if (source,) in lane]
        return f"background-{beside[0] if beside else 0}"
    if waits_for_light(source, settings):
        return "heavy"
    return source


def waits_for_light(source: str, settings: Settings) -> bool:
    """Whether a run of this source starts only when no light run is under way."""
    heavy = settings_of(source, settings).weight == "heavy"
    return settings.ingest.mode == "staged" and heavy


def _plan(settings: Settings) -> tuple[tuple[tuple[str, ...], ...], ...]:
    return plan(settings.ingest.mode, loads(settings, settings.ingest.sources))
