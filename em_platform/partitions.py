"""By what the assets are divided, and their runs."""

import dagster as dg

from em_platform.ingest.plan import partition_set
from em_platform.ingest.sources import SOURCES

# Part of a run (tag `em/part`) -> the assets that only it makes; a part has its limit
# in dagster.yaml. Montages that were just imaged are `live`, all others `montage`.
LIVE, LENS, REVIEW, MONTAGE, CATALOG = "live", "lens", "review", "montage", "catalog"
CRYOEM = "cryoem"
SIMULATION = "simulation"
PARTS = {
    CRYOEM: frozenset(
        {
            *("movies", "micrographs", "ctf_fits", "particle_picks", "particles"),
            *("ispyb_rows", "relion_project", "ispyb_tomograms", "relion_tomograms"),
            *("ispyb_classes", "relion_classes"),
            *("classes", "tilt_series", "alignments", "tomograms", "denoised"),
            "thumbnails",
        }
    ),
    LENS: frozenset({"lens_correction"}),
    REVIEW: frozenset({"uploaded_tiles", "acquisition_review"}),
    CATALOG: frozenset({"metadata_catalog", "validation_report"}),
    SIMULATION: frozenset(
        {
            "sim_config",
            "sim_particle_library",
            "sim_sample",
            "sim_tilt_stack",
            "sim_ground_truth",
            "sim_exports",
            "sim_record",
        }
    ),
}

# Dagster starts the highest first. A montage that is asked for by hand goes before the
# backlog, whose sensor says so, and a backfill goes last.
PRIORITIES = {LIVE: 50, LENS: 40, REVIEW: 30, MONTAGE: 20}
BACKLOG, BACKFILLED = 10, -10

# One partition a montage; the key is its acquisition id.
montages = dg.DynamicPartitionsDefinition(name="montages")

# What these find makes the input unusable: the run ends there, nothing follows.
BLOCKING_CHECKS = (
    dg.AssetCheckKey(dg.AssetKey("tiles"), "enough_tiles_are_present"),
    dg.AssetCheckKey(dg.AssetKey("montage_fit"), "enough_tiles_are_connected"),
)

# One partition a microscope and magnification; see `lens_key`.
lenses = dg.DynamicPartitionsDefinition(name="lenses")

# Of cryo-EM: a movie or tilt series is `SESSION~NAME`, a session its folder's name.
movies = dg.DynamicPartitionsDefinition(name="movies")
tilt_series = dg.DynamicPartitionsDefinition(name="tilt_series")
sessions = dg.DynamicPartitionsDefinition(name="sessions")
# One partition a simulated tilt series; the key is its name, `<plan>-<number>`.
sim_stacks = dg.DynamicPartitionsDefinition(name="sim_stack")

# Public source -> one partition an item; the key is the item's own.
items = {
    source: dg.DynamicPartitionsDefinition(name=partition_set(source))
    for source in SOURCES
}


def lens_key(microscope: str, magnification: int) -> str:
    """The partition of the lens of `microscope` at `magnification`."""
    return f"{microscope}_{magnification}"


def lens_of_key(key: str) -> tuple[str, int]:
    """The microscope and the magnification that `key` stands for."""
    # From the right: a microscope's name may hold a `_`.
    microscope, _, magnification = key.rpartition("_")
    return microscope, int(magnification)
