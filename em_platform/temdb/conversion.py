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
from em_platform.temdb.acquired import (
    AcquiredMontage,
    AcquiredTile,
    KnownRun,
    MatchedNeighbour,
)

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
            # TEM DB holds whole milliseconds.
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
