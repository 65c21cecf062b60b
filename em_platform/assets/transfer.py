"""The uploaded tiles of a montage, and what is written to TEM DB about it."""

from collections.abc import Sequence

import dagster as dg

from em_platform.acquisition.montages.review import (
    check_upload,
    judged_montage,
    uploaded_montage,
    verdict,
    write_review,
)
from em_platform.acquisition.session.reimage import image_again
from em_platform.assets.checks import check_results, check_specs, dagster_failures
from em_platform.assets.metadata import (
    Metadata,
    failure_table,
    place,
    table,
    tag_run,
)
from em_platform.jobs import SETTINGS_AT_LOAD
from em_platform.model import AcquisitionUpload, Check, Montage
from em_platform.partitions import REVIEW, montages
from em_platform.resources.acquisition import Microscope, TemdbResource
from em_platform.resources.storage import Configuration, Storage
from em_platform.storage import layout

_OWNERS = ["team:microscopy"]

_UPLOADED_TILES_CHECKS = {
    "all_tiles_are_uploaded": "Every announced tile was taken by aloha.",
    "uploaded_tiles_are_whole": "Each has its size; frames that are still on the "
    "disk have the checksum that was sent.",
}


def _database_kind() -> str:
    """The icon of TEM DB in the lineage: the database that the settings name."""
    temdb = SETTINGS_AT_LOAD.temdb
    if temdb.url:
        return "http"
    return "postgresql" if temdb.database.startswith("postgres") else "sqlite"


temdb_tasks = dg.AssetSpec(
    "temdb_tasks",
    group_name="review",
    kinds={_database_kind()},
    deps=["acquisition_review"],
    owners=_OWNERS,
    description="The tasks of TEM DB that are not superseded, by their state; seen at "
    "with each review.",
)


@dg.asset(
    group_name="review",
    partitions_def=montages,
    deps=["raw_tiles"],
    kinds={"zarr"},
    owners=_OWNERS,
    pool=REVIEW,
    check_specs=check_specs("uploaded_tiles", _UPLOADED_TILES_CHECKS, montages),
)
def uploaded_tiles(
    context: dg.AssetExecutionContext, storage: Storage
) -> dg.MaterializeResult:
    """The frames of one montage as aloha has verified and stored them."""
    # No lease: aloha writes there, this only looks.
    key, store = context.partition_key, storage.store()
    with dagster_failures():
        upload = uploaded_montage(key, store)
        montage = store.read(layout.montage(key), Montage)
        checks = check_upload(upload, montage, store)
    return dg.MaterializeResult(
        metadata=upload_summary(upload, store.url(layout.uploaded_acquisition(key))),
        check_results=check_results(checks, "uploaded_tiles"),
    )


@dg.asset(
    group_name="review",
    partitions_def=montages,
    deps=["uploaded_tiles", "tile_statistics", "montage_fit", "mosaic"],
    kinds={"json"},
    owners=_OWNERS,
    pool=REVIEW,
)
def acquisition_review(
    context: dg.AssetExecutionContext,
    configuration: Configuration,
    storage: Storage,
    temdb: TemdbResource,
) -> dg.MaterializeResult:
    """What the checks make of one montage, as it stands in TEM DB."""
    key, store = context.partition_key, storage.store()
    settings = configuration.settings().stitching
    with dagster_failures():
        judged = judged_montage(key, store, settings)
        upload = check_upload(uploaded_montage(key, store), judged.montage, store)
        checks = (*judged.checks, *upload)
        register, url = temdb.register(), store.url(layout.mosaic(key))
        # Not current: that place is the one of the tiles.
        register.add_place(key, url, holds="mosaic", is_current=False)
        state = write_review(register, key, verdict(checks))
        tasks = {str(name): count for name, count in register.task_counts().items()}
    tag_run(context, judged.montage)
    context.log_event(dg.AssetObservation("temdb_tasks", metadata=tasks))
    return dg.MaterializeResult(metadata=review_summary(checks, state))


class Again(dg.Config):
    """Which montage is to be imaged again.

    `aperture_id` is needed only where the upload does not say it.
    """

    acquisition_id: str
    aperture_id: int | None = None


@dg.op(tags={"dagster/kind": "pigeon"})
def ask_again(
    context: dg.OpExecutionContext,
    config: Again,
    configuration: Configuration,
    microscope: Microscope,
    storage: Storage,
    temdb: TemdbResource,
) -> str:
    """Ask the microscope for the montage; the id of the new one."""
    with dagster_failures():
        new = image_again(
            microscope.montage(config.acquisition_id),
            settings=configuration.settings(),
            register=temdb.register(),
            store=storage.store(),
            aperture_id=config.aperture_id,
        )
    context.add_output_metadata({"montage": new})
    return new


@dg.job(
    name="image_again",
    description="A montage once more: a task in TEM DB that supersedes its own, and "
    "its region at the end of the microscope's queue.",
)
def image_again_job() -> None:
    """One act: ask the microscope."""
    ask_again()


def upload_summary(upload: AcquisitionUpload, url: str) -> Metadata:
    """How many tiles aloha has taken, of how many bytes, and where they lie."""
    return {
        "tiles": len(upload.tiles),
        "bytes": sum(tile.bytes for tile in upload.tiles),
        "excluded": failure_table(upload.failures),
        "path": place(url),
        "specimen": upload.specimen_id or "not known",
        "task": upload.task_id or upload.montage_id,
        "replaces": upload.replaces_acquisition_id or "none",
    }


def review_summary(checks: Sequence[Check], state: str) -> Metadata:
    """The verdict, and the checks that failed."""
    failed = [(check.name, check.sentence) for check in checks if not check.passed]
    return {
        "verdict in TEM DB": state,
        "checks": len(checks),
        "failed": table(("check", "what it found"), failed) if failed else "none",
    }
