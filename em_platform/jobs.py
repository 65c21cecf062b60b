"""A job a group, and the one that takes a montage through all of them.

All run in one process each, also what is launched from an asset's page
(`definitions.py`): Dagster's other executors start one process a step, which costs more
than the step. The heavy work goes to Dask.
"""

import logging

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    # Not among Dagster's public names; only annotations need it.
    UnresolvedAssetJobDefinition,
)

from em_platform.config import Settings, load_settings
from em_platform.errors import ConfigError
from em_platform.ingest.plan import PART, job_tags
from em_platform.ingest.sources import SOURCES, settings_of
from em_platform.partitions import (
    CATALOG,
    CRYOEM,
    LENS,
    MONTAGE,
    REVIEW,
    SIMULATION,
)

log = logging.getLogger(__name__)

LENS_ASSETS = dg.AssetSelection.assets("lens_correction")
# A montage may be stitched where nothing uploads it, and no TEM DB runs.
TRANSFER = dg.AssetSelection.assets("uploaded_tiles", "acquisition_review")
ACQUISITION = dg.AssetSelection.groups("acquisition")
STITCHING = dg.AssetSelection.groups("stitching") - LENS_ASSETS
RECORD = dg.AssetSelection.assets("dataset_record")
SIMULATION_ASSETS = dg.AssetSelection.groups("simulation")
CATALOG_ASSETS = dg.AssetSelection.groups("catalog") - RECORD


def _job(
    name: str,
    selection: dg.AssetSelection,
    description: str,
    *,
    part: str = MONTAGE,
) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        name, selection=selection, description=description, tags={PART: part}
    )


def _settings_at_load() -> Settings:
    """The settings as they are when Dagster loads the definitions.

    Definitions must load whatever the settings hold: each run then says what is wrong.
    """
    try:
        return load_settings()
    except ConfigError as error:
        log.warning("%s; jobs and schedules have the default settings", error)
        return Settings()


# For what Dagster must know before anything runs: cron times, weights, limits.
SETTINGS_AT_LOAD = _settings_at_load()


stitch_montages = _job(
    "stitch_montages",
    ACQUISITION | STITCHING | RECORD,
    "Everything for one montage: tiles, matches, fit, mosaic, checks and record.",
)
process_tiles = _job(
    "process_tiles", ACQUISITION, "A montage's raw frames again into 8-bit tiles."
)
stitch_tiles = _job("stitch_tiles", STITCHING, "A montage's tiles again into a mosaic.")
record_datasets = _job("record_datasets", RECORD, "A montage's catalog record again.")
review_acquisitions = _job(
    "review_acquisitions",
    TRANSFER,
    "The review of a montage in TEM DB, once it is uploaded and stitched.",
    part=REVIEW,
)
calibrate_lens = _job(
    "calibrate_lens",
    LENS_ASSETS,
    "The lens of one microscope at one magnification, from a montage with 60 % overlap "
    "that the run's configuration names.",
    part=LENS,
)
consolidate_catalog = _job(
    "consolidate_catalog",
    CATALOG_ASSETS,
    "All records of all sources into one catalog, with its reports.",
    part=CATALOG,
)

_OF_MOVIES = ("movies", "micrographs", "ctf_fits", "ispyb_rows", "relion_project")
process_movies = _job(
    "process_movies",
    dg.AssetSelection.assets(*_OF_MOVIES),
    "A movie of cryo-EM: its corrected sum, the CTF of it, and its records.",
    part=CRYOEM,
)
process_particles = _job(
    "process_particles",
    dg.AssetSelection.assets(*_OF_MOVIES, "particle_picks", "particles"),
    "A movie of single particles: sum, CTF, picks, boxes and records.",
    part=CRYOEM,
)
process_tilt_series = _job(
    "process_tilt_series",
    dg.AssetSelection.assets(
        *("tilt_series", "alignments", "tomograms", "denoised", "thumbnails"),
        *("ispyb_tomograms", "relion_tomograms"),
    ),
    "A tilt series of cryo-EM: stack, alignment, tomograms, pictures and records.",
    part=CRYOEM,
)
classify_particles = _job(
    "classify_particles",
    dg.AssetSelection.assets("classes", "ispyb_classes", "relion_classes"),
    "All particles of a session into 2-D classes, and their records.",
    part=CRYOEM,
)

simulate_stacks = _job(
    "simulate_stacks",
    SIMULATION_ASSETS,
    "Everything for one simulated tilt series: sample, images, truth, checks, record.",
    part=SIMULATION,
)

# The assets of each source, each made from the one before.
INGESTED = ("entry", "raw", "volume", "record")

# Assemblers that may ask Chimera, and makers of images, which take all cores or the
# one outside program; dagster.yaml says how many of each.
CHIMERA_POOL, TILT_SERIES_POOL = "chimera", "tilt_series"

# Writers of large volumes; dagster.yaml lets in one.
HEAVY_POOL = "heavy"


def source_pool(source: str) -> str:
    """Those who talk to one source; dagster.yaml lets in one, out of politeness."""
    return f"ingest_{source}"


def is_heavy(source: str) -> bool:
    """Whether the volumes of a source are large."""
    return settings_of(source, SETTINGS_AT_LOAD).weight == "heavy"


def _ingest_job(source: str) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        f"ingest_{source}",
        selection=[dg.AssetKey([source, name]) for name in INGESTED],
        description=f"Items of {source}: metadata of each, its files, its volume "
        "as OME-Zarr, its catalog record.",
        tags=job_tags(source, SETTINGS_AT_LOAD),
    )


# Source -> the job that takes one of its items through all steps.
ingest_jobs = {source: _ingest_job(source) for source in SOURCES}


def lens_config(acquisition_id: str) -> dict[str, object]:
    """The configuration of a run of `calibrate_lens` from that montage."""
    config = {"config": {"acquisition_id": acquisition_id}}
    return {"ops": {"lens_correction": config}}


ALL_JOBS = (
    stitch_montages,
    process_tiles,
    stitch_tiles,
    record_datasets,
    review_acquisitions,
    calibrate_lens,
    consolidate_catalog,
    process_movies,
    process_particles,
    process_tilt_series,
    classify_particles,
    simulate_stacks,
    *ingest_jobs.values(),
)
