"""Images a montage again: a new task in TEM DB, its region anew in the queue."""

import logging
import statistics
from typing import TYPE_CHECKING, Any

from em_platform.acquisition.roi import LAST, RoiFields, roi_of
from em_platform.config import Settings
from em_platform.errors import AcquisitionError, NoAnswer
from em_platform.messaging.bus import Bus
from em_platform.model import AcquisitionUpload, Montage
from em_platform.storage import Store, layout

if TYPE_CHECKING:
    from em_platform.temdb.register import Register

log = logging.getLogger(__name__)

_CONNECT_S = 10.0  # A run of Dagster may wait: nobody sits in front of it
_LOOK_S = 4.0  # the queue is published each two seconds
# The queue is published each two seconds; a busy coordinator is waited for.
_TAKEN_S = 15.0
# What describes the region itself; ids and the time of the request are new.
_REGION = (
    "vertices",
    "rotation_angle",
    "buffer_size",
    "specimen_id",
    "aperture_id",
    "section_id",
    "overlap",
    "acquisition_type",
    "calibrations",
)


def image_again(
    montage: Montage,
    *,
    settings: Settings,
    register: "Register",
    store: Store,
    aperture_id: int | None = None,
) -> str:
    """Ask the microscope for a montage once more; the id of the new one.

    Asked twice it is imaged once. The region and its aperture are those of the upload;
    without one the region is rebuilt from the tiles, and `aperture_id` must be given.

    Raises
    ------
    AcquisitionError
        The aperture is not known, or the montage is one of a tilt series.
    NoAnswer
        The coordinator did not take the region into its queue.
    SourceError
        TEM DB is away, or does not know the acquisition.
    """
    region = _region(montage, settings, store, aperture_id=aperture_id)
    new = register.supersede(montage.acquisition_id)
    if register.runs_of(new):
        log.info("again: %s was imaged already", new)
        return new
    metadata = {
        **(region.get("metadata") or {}),
        "task_id": new,
        "replaces_acquisition_id": montage.acquisition_id,
    }
    region |= {"montage_id": new, "metadata": metadata, "queue_position": LAST}
    with Bus(settings.broker, "dagster") as bus:
        bus.connect(_CONNECT_S)
        if not _is_queued(bus, new):
            since = bus.mark("roi.queue.status")
            bus.publish("roi.create", **region)
            bus.wait_for(
                "roi.queue.status", lambda s: _names(s, new), _TAKEN_S, since=since
            )
    return new


def _region(
    montage: Montage, settings: Settings, store: Store, *, aperture_id: int | None
) -> RoiFields:
    name = layout.upload(montage.acquisition_id)
    known: RoiFields = {}
    if store.exists(name):
        known = store.read(name, AcquisitionUpload).roi
    if known.get("acquisition_type") == "tilt_series":
        raise AcquisitionError(
            f"montage {montage.acquisition_id} is one of a tilt series, which is "
            "imaged as a whole; create it again on the operator's page"
        )
    if known.get("vertices"):
        region = {key: known[key] for key in _REGION if known.get(key) is not None}
        region["metadata"] = known.get("metadata")
    else:
        region = _rebuilt(montage, settings)
    if aperture_id is not None:
        region["aperture_id"] = aperture_id
    if region.get("aperture_id") is None:
        raise AcquisitionError(
            f"montage {montage.acquisition_id}: nobody has recorded in which aperture "
            "it lies; give aperture_id"
        )
    return region


def _rebuilt(montage: Montage, settings: Settings) -> RoiFields:
    """The region that the tiles cover, from where the stage stood."""
    stages = [
        (tile.stage_x_nm, tile.stage_y_nm)
        for tile in montage.tiles
        if tile.stage_x_nm is not None and tile.stage_y_nm is not None
    ]
    if len(stages) < len(montage.tiles) or not stages:
        raise AcquisitionError(
            f"montage {montage.acquisition_id} has tiles without a place of the stage, "
            "so that its region is not known; draw it on the operator's page"
        )
    xs, ys = zip(*stages, strict=True)
    rows = [tile.row for tile in montage.tiles]
    columns = [tile.column for tile in montage.tiles]
    return roi_of(
        montage.montage_id,
        None,
        max(rows) - min(rows) + 1,
        max(columns) - min(columns) + 1,
        _overlap(montage),
        settings,
        frame=montage.tile_size,
        center_nm=((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2),
        pixel_nm=montage.pixel_nm,
    )


def _overlap(montage: Montage) -> float | None:
    """What neighbours share, as a part of an edge in whole percent."""
    at = {(tile.row, tile.column): tile for tile in montage.tiles}
    edge = min(montage.tile_size.height_px, montage.tile_size.width_px)
    shared = [
        montage.tile_size.width_px - abs(right.x_px - left.x_px)
        for (row, column), left in at.items()
        if (right := at.get((row, column + 1)))
    ]
    # the median: a tile that jumped does not change it
    return round(statistics.median(shared) / edge, 2) if shared else None


def _is_queued(bus: Bus, montage_id: str) -> bool:
    try:
        status = bus.wait_for("roi.queue.status", lambda _: True, _LOOK_S)
    except NoAnswer:  # perhaps it starts just now: the request waits for it anyhow
        return False
    return _names(status, montage_id)


def _names(status: Any, montage_id: str) -> bool:
    return any(entry.montage_id == montage_id for entry in status.queue)
