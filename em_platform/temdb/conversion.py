"""Acquired montages and tiles in TEM DB's models and units, and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from temdb.models import (
    AcquisitionCreate,
    AcquisitionParams,
    Calibration,
    HardwareParams,
    Matcher,
    StorageLocation,
    TileCreate,
)

from em_platform.temdb.acquired import (
    AcquiredMontage,
    AcquiredTile,
    KnownRun,
    MatchedNeighbour,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The parents of an acquisition."""

    task_id: str
    roi_id: str | None
    media_type: str
    dataset_id: str
    microscope_id: UUID


def acquisition_create(
    acquired: AcquiredMontage, lineage: Lineage, *, replaced: int | None
) -> Any:
    """The acquisition in TEM DB's units: ms and degrees."""
    optional = {} if replaced is None else {"replaces_acquisition_id": replaced}
    return AcquisitionCreate(
        acquisition_id=acquired.acquisition_id,
        montage_id=acquired.montage_id,
        roi_id=lineage.roi_id,
        acquisition_task_id=lineage.task_id,
        microscope_id=lineage.microscope_id,
        dataset_id=lineage.dataset_id,
        kind=acquired.kind,
        hardware_settings=HardwareParams(
            scope_id=acquired.microscope,
            camera_model=acquired.camera_model,
            camera_serial=acquired.camera_serial,
            camera_bit_depth=acquired.camera_bit_depth,
            media_type=lineage.media_type,
        ),
        acquisition_settings=AcquisitionParams(
            magnification=acquired.magnification,
            spot_size=acquired.spot_size,
            exposure_time=round(acquired.exposure_us / 1000),
            tile_size=[acquired.tile_size.height_px, acquired.tile_size.width_px],
            tile_overlap=acquired.overlap_px,
            saved_bit_depth=acquired.saved_bit_depth,
        ),
        calibration_info=Calibration(
            pixel_size=acquired.pixel_nm,
            rotation_angle=math.degrees(acquired.rotation_rad),
            aperture_centroid=list(acquired.aperture_centroid_nm)
            if acquired.aperture_centroid_nm
            else None,
        ),
        tilt_angle_deg=acquired.tilt_deg,
        start_time=_in_utc(acquired.started_at),
        **optional,
    )


def tile_create(tile: AcquiredTile) -> Any:
    """One tile; of its focus the larger score is the better one."""
    return TileCreate(
        raster_index=tile.raster_index,
        stage_position={"x": tile.stage_x_nm, "y": tile.stage_y_nm},
        raster_position={"row": tile.row, "col": tile.column},
        focus_score=1.0 - tile.focus,
        min_value=tile.minimum,
        max_value=tile.maximum,
        mean_value=tile.mean,
        std_value=tile.std,
        image_path=tile.uri,
        matcher=[_matcher(match) for match in tile.matches],
    )


def known_run(found: Any, *, tiles: int) -> KnownRun:
    """A run from the client's answer."""
    return KnownRun(
        acquisition_id=found.acquisition_id,
        montage_id=found.montage_id,
        task_id=found.acquisition_task_id,
        status=found.status,
        qc_state=found.qc_state,
        qc_by=found.qc_state_updated_by,
        transfer_state=found.transfer_state,
        replaces_acquisition_id=found.replaces_acquisition_id,
        tile_count=tiles,
        places=tuple(place.base_path for place in found.storage_locations or ()),
    )


def added_place(
    places: Sequence[Any], url: str, *, holds: str, is_current: bool
) -> list[Any] | None:
    """All places with `url` among them; None where it is there already."""
    for place in places:
        if place.base_path == url and place.is_current >= is_current:
            return None
    kept = [place for place in places if place.base_path != url]
    if is_current:
        kept = [place.model_copy(update={"is_current": False}) for place in kept]
    kind = url.split("://", 1)[0] if "://" in url else "file"
    new = StorageLocation(
        location_type="local" if kind == "file" else kind,
        base_path=url,
        is_current=is_current,
        date_added=datetime.now(UTC),
        metadata={"holds": holds},
    )
    return [*kept, new]


def _matcher(match: MatchedNeighbour) -> Any:
    return Matcher(
        row=match.row,
        col=match.column,
        dX=match.dx_px,
        dY=match.dy_px,
        dXsd=match.dx_sd_px,
        dYsd=match.dy_sd_px,
        distance=match.distance_px,
        rotation=match.rotation_rad,
        match_quality=match.good_matches,
        position=match.position,
        pX=list(match.p_x),
        pY=list(match.p_y),
        qX=list(match.q_x),
        qY=list(match.q_y),
    )


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
