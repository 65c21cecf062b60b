"""Montages and tiles in TEM DB's models and units; its answers and errors in ours."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from pydantic import ValidationError
from temdb.client import TEMdbClientError
from temdb.models import (
    AcquisitionCreate,
    AcquisitionParams,
    Calibration,
    HardwareParams,
    Matcher,
    StorageLocation,
    TileCreate,
)

from em_platform.errors import SourceError, SourceRefused, SourceUnavailable
from em_platform.model import (
    AcquisitionUpload,
    MeasuredTile,
    NeighbourMatch,
    UploadedTile,
)
from em_platform.temdb.known_run import KnownRun

# Of a camera that reports none.
_BIT_DEPTH = 8
# Not measured counts as the worst.
_UNMEASURED = MeasuredTile(minimum=0, maximum=0, mean=0, std=0, focus_score=0)

# Statuses of RFC 9110 and 6585 that pass by themselves: retry, correct nothing.
_LATER = frozenset((408, 425, 429, 500, 502, 503, 504))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The parents of an acquisition."""

    task_id: str
    roi_id: str | None
    media_type: str
    dataset_id: str
    microscope_id: UUID


def acquisition_create(
    upload: AcquisitionUpload, lineage: Lineage, *, replaced: int | None
) -> Any:
    """The acquisition in TEM DB's units, ms and degrees; unknown figures are 0."""
    optional = {} if replaced is None else {"replaces_acquisition_id": replaced}
    instrument, size = upload.instrument, upload.tile_size
    saved_bits = upload.bit_depth or _BIT_DEPTH
    return AcquisitionCreate(
        acquisition_id=upload.acquisition_id,
        montage_id=upload.montage_id,
        roi_id=lineage.roi_id,
        acquisition_task_id=lineage.task_id,
        microscope_id=lineage.microscope_id,
        dataset_id=lineage.dataset_id,
        kind="lens_correction" if upload.kind == "lens_correction" else "montage",
        hardware_settings=HardwareParams(
            scope_id=instrument.microscope,
            camera_model=instrument.camera_model,
            camera_serial=instrument.camera_serial,
            camera_bit_depth=instrument.camera_bit_depth or saved_bits,
            media_type=lineage.media_type,
        ),
        acquisition_settings=AcquisitionParams(
            magnification=instrument.magnification or 0,
            spot_size=instrument.spot_size or 0,
            # TEM DB holds whole milliseconds.
            exposure_time=round((instrument.exposure_us or 0) / 1000),
            tile_size=[size.height_px, size.width_px],
            tile_overlap=upload.overlap_px or 0,
            saved_bit_depth=saved_bits,
        ),
        calibration_info=Calibration(
            pixel_size=upload.pixel_nm or 0.0,
            rotation_angle=math.degrees(upload.rotation_rad),
            aperture_centroid=[
                upload.aperture_centroid_x_nm,
                upload.aperture_centroid_y_nm,
            ],
        ),
        tilt_angle_deg=upload.tilt_angle_deg,
        start_time=_in_utc(upload.started_at),
        **optional,
    )


def tile_create(tile: UploadedTile) -> Any:
    """One tile, with what was measured of it."""
    measured = tile.statistics or _UNMEASURED
    return TileCreate(
        raster_index=tile.raster_index,
        stage_position={"x": tile.stage_x_nm, "y": tile.stage_y_nm},
        raster_position={"row": tile.row, "col": tile.column},
        focus_score=measured.focus_score,
        min_value=measured.minimum,
        max_value=measured.maximum,
        mean_value=measured.mean,
        std_value=measured.std,
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
        # Only to become the current one is a known place written again.
        if place.base_path == url and place.is_current >= is_current:
            return None
    kept = [place for place in places if place.base_path != url]
    # At most one: the server shows the first that says so.
    if is_current:
        kept = [place.model_copy(update={"is_current": False}) for place in kept]
    # TEM DB's words: `local` for a disk, else the scheme, such as s3.
    kind = url.split("://", 1)[0] if "://" in url else "file"
    new = StorageLocation(
        location_type="local" if kind == "file" else kind,
        base_path=url,
        is_current=is_current,
        date_added=datetime.now(UTC),
        metadata={"holds": holds},
    )
    return [*kept, new]


def _matcher(match: NeighbourMatch) -> Any:
    return Matcher(
        row=match.row,
        col=match.column,
        dX=match.dx_px,
        dY=match.dy_px,
        dXsd=match.dx_std_px,
        dYsd=match.dy_std_px,
        distance=match.distance_px,
        rotation=match.rotation_rad,
        # How many templates were found again.
        match_quality=len(match.tile_points),
        position=match.position,
        pX=[x for _, x in match.tile_points],
        pY=[y for y, _ in match.tile_points],
        qX=[x for _, x in match.neighbour_points],
        qY=[y for y, _ in match.neighbour_points],
    )


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def status_of(error: TEMdbClientError) -> int | None:
    """The HTTP status that the server answered; None where it did not answer."""
    # The client's own error has the status only within its text.
    cause = error.__cause__
    if isinstance(cause, httpx.HTTPStatusError):
        return cause.response.status_code
    return None


def refused(error: TEMdbClientError, url: str) -> SourceError:
    """The platform's error for one of the client."""
    status, cause = status_of(error), error.__cause__
    if not isinstance(cause, httpx.HTTPStatusError):
        why = type(cause).__name__ if cause is not None else str(error)
        return SourceUnavailable(
            f"TEM DB {url}: no answer ({why}), expected one; start it with "
            "em-platform service temdb, or correct temdb.url"
        )
    request, text = cause.request, _detail(cause.response)
    call = f"{request.method} {request.url.path}"
    if status in _LATER:
        return SourceUnavailable(
            f"TEM DB {url}: answered {status} to {call} ({text}); ask again later"
        )
    if status in (401, 403):
        return SourceRefused(
            f"TEM DB {url}: refused our token ({status}); give temdb.token the one "
            "that it expects"
        )
    return SourceRefused(f"TEM DB {url}: answered {status} to {call}: {text}")


def strange_answer(error: ValidationError, url: str) -> SourceRefused:
    """An answer that is not one of TEM DB's."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return SourceRefused(
        f"TEM DB {url}: the answer is no {error.title} ({place}: {first['msg']}); see "
        "that temdb.url names a TEM DB of version 2"
    )


def _detail(response: httpx.Response) -> str:
    try:
        detail = json.loads(response.text)["detail"]
    except (ValueError, KeyError, TypeError):
        # No answer of TEM DB's, such as a proxy's page: its beginning will do.
        return response.text[:200]
    return str(detail)
