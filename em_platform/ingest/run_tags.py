"""What Dagster's runs of the sources are called, and which may go beside each other.

Runs in one lane go one after the other: Dagster's queue lets in one run of each value
of the tag `em/lane` (`tag_concurrency_limits` in dagster.yaml).
"""

from em_platform.config import Settings
from em_platform.config.ingest import Mode
from em_platform.ingest.plan import loads, plan
from em_platform.ingest.sources import settings_of

PART, SOURCE, WEIGHT, MODE, LANE = (
    *("em/part", "em/source", "em/weight"),
    *("em/mode", "em/lane"),
)
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
    """What stands on every run of a source, whoever asked for it."""
    own = settings_of(source, settings)
    return {
        PART: INGEST,
        SOURCE: source,
        WEIGHT: own.weight,
        MEMORY_MB: str(own.memory_limit_mb),
        CPUS: f"{own.cpus:g}",
    }


def run_tags(source: str, settings: Settings) -> dict[str, str]:
    """What stands on a run that a schedule asks for, in the execution mode."""
    mode = settings.ingest.mode
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
        MODE: mode,
        LANE: lane_of(source, settings),
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
