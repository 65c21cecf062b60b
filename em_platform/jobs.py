"""A job a group, and the one that takes a montage through all of them.

Montages run in one process each: Dagster's other executors start one process a step,
which costs more than the step. The heavy work goes to Dask.
"""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

LENS = dg.AssetSelection.assets("lens_correction")
# A montage may be stitched where nothing uploads it, and no TEM DB runs.
TRANSFER = dg.AssetSelection.assets("uploaded_tiles", "acquisition_review")
ACQUISITION = dg.AssetSelection.groups("acquisition") - TRANSFER
STITCHING = dg.AssetSelection.groups("stitching") - LENS
CATALOG = dg.AssetSelection.groups("catalog")


def _montage_job(
    name: str, selection: dg.AssetSelection, description: str
) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        name,
        selection=selection,
        description=description,
        executor_def=dg.in_process_executor,
    )


stitch_montages = _montage_job(
    "stitch_montages",
    ACQUISITION | STITCHING | CATALOG,
    "Everything for one montage: tiles, matches, fit, mosaic, checks and record.",
)
process_tiles = _montage_job(
    "process_tiles", ACQUISITION, "A montage's raw frames again into 8-bit tiles."
)
stitch_tiles = _montage_job(
    "stitch_tiles", STITCHING, "A montage's tiles again into a mosaic."
)
record_datasets = _montage_job(
    "record_datasets", CATALOG, "A montage's catalog record again."
)
review_acquisitions = _montage_job(
    "review_acquisitions",
    TRANSFER,
    "What came of a montage, told to TEM DB once it is uploaded and stitched.",
)
calibrate_lens = dg.define_asset_job(
    "calibrate_lens",
    selection=LENS,
    description="The lens of one microscope at one magnification, from a montage with "
    "60 % overlap that the run's configuration names.",
    executor_def=dg.in_process_executor,
)


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
)
