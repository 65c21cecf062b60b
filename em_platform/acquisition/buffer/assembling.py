"""From the journal's rows of one acquisition to what aloha gets to know of it."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from em_platform.acquisition.buffer.tables import (
    PRELIMINARY,
    REFUSED,
    MontageRow,
    TileRow,
)
from em_platform.acquisition.frame_paths import retry_of
from em_platform.acquisition.recorder.events import VERDICT
from em_platform.config import AcquisitionSettings
from em_platform.errors import DataError, RecordError
from em_platform.messaging.topics import Body, inverted_focus
from em_platform.model import (
    AcquisitionUpload,
    Failure,
    MeasuredTile,
    NeighbourMatch,
    Size,
    TilePart,
    UsedInstrument,
)
from em_platform.stitching.sidecar_files import matches_path, processed_path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAcquisition:
    """All that the journal holds of one acquisition that has ended."""

    montage: MontageRow
    tiles: Sequence[TileRow]
    notes: Mapping[str, Mapping[str, Body]] = field(default_factory=dict)
    roi: Body = field(default_factory=dict)
    instrument: Body = field(default_factory=dict)


def complete_upload(
    known: EndedAcquisition, settings: AcquisitionSettings
) -> AcquisitionUpload:
    """The announcement of a montage that was completed; frames it lacks are failures.

    Raises
    ------
    RecordError
        It has no frame that can be sent, or its messages contradict each other.
    """
    announced = known.montage.body["tiles"]
    found = {tile.tile_id: tile for tile in known.tiles}
    order = sorted(announced, key=lambda name: announced[name]["raster_index"])
    retried = _retried(known, announced)
    tiles, failures = [], []
    for tile_id in order:
        tile = found.get(tile_id)
        if tile is None or tile.sha256 is None or tile.state == REFUSED:
            failures.append(_failure(tile_id, tile))
        else:
            messages = known.notes.get(tile_id, {})
            tiles.append(_uploaded_tile(tile, announced[tile_id], messages, retried))
    if not tiles:
        raise RecordError(
            f"buffer: acquisition {known.montage.acquisition_id}: not one of its "
            f"{len(failures)} tiles has a frame that can be sent (first: "
            f"{failures[0].sentence if failures else 'it has none'})"
        )
    body = known.montage.body
    x_nm, y_nm = body["aperture_centroid"]
    return _upload(
        known,
        settings,
        started_at=datetime.fromisoformat(body["start_time"]),
        pixel_nm=body["pixel_size"],
        rotation_rad=body["rotation_angle"],
        aperture_centroid_x_nm=x_nm,
        aperture_centroid_y_nm=y_nm,
        tilt_angle_deg=body["tilt_angle"],
        tilt_series_id=body["tilt_series_id"],
        tiles=tuple(tiles),
        failures=tuple(failures),
    )


def cancelled_upload(
    known: EndedAcquisition, settings: AcquisitionSettings
) -> AcquisitionUpload:
    """The announcement of a cancelled acquisition: no tiles of it are sent."""
    # without a montage.complete nothing else names its start
    first = min(tile.sent_at for tile in known.tiles)
    return _upload(known, settings, started_at=datetime.fromtimestamp(first, UTC))


def _upload(
    known: EndedAcquisition, settings: AcquisitionSettings, **fields: Any
) -> AcquisitionUpload:
    read = next(
        (tile for tile in known.tiles if tile.height_px and tile.width_px), None
    )
    if read is None:
        raise RecordError(
            f"buffer: acquisition {known.montage.acquisition_id}: none of its frames "
            "can be read, one at least was expected; see the sentences of its tiles"
        )
    roi = known.roi
    asked = roi.get("metadata") or {}
    try:
        return AcquisitionUpload(
            acquisition_id=known.montage.acquisition_id,
            montage_id=known.montage.montage_id,
            kind=_kind(known),
            specimen_id=roi.get("specimen_id"),
            section_id=roi.get("section_id"),
            aperture_id=roi.get("aperture_id"),
            task_id=asked.get("task_id"),
            replaces_acquisition_id=asked.get("replaces_acquisition_id"),
            ended_at=datetime.fromtimestamp(known.montage.body["ended_at"], UTC),
            overlap_px=read.body["overlap"],
            tile_size=Size(height_px=read.height_px or 0, width_px=read.width_px or 0),
            bit_depth=read.bits,
            instrument=_instrument(known.instrument, settings),
            roi=dict(roi),
            **fields,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise RecordError(
            f"buffer: acquisition {known.montage.acquisition_id} cannot be announced "
            f"({place}: {first['msg']}); correct the sender of its messages"
        ) from error


def _kind(known: EndedAcquisition) -> str:
    if "acquisition_type" in known.roi:
        return str(known.roi["acquisition_type"])
    is_lens = any(tile.body.get("lens_correction") for tile in known.tiles)
    return "lens_correction" if is_lens else "montage"


def _failure(tile_id: str, tile: TileRow | None) -> Failure:
    sentence = tile.sentence if tile else ""
    if not sentence:
        found = "no frame of it was saved" if tile is None else "it was not read"
        sentence = (
            f"tile {tile_id}: announced by montage.complete, but {found}; image it "
            "again"
        )
    return Failure(item=tile_id, error="DataError", sentence=sentence)


def _retried(
    known: EndedAcquisition, announced: Collection[str]
) -> dict[tuple[int, int], float]:
    """Row and column of the tiles that were imaged again -> when."""
    return {
        (tile.body["row"], tile.body["column"]): tile.sent_at
        for tile in known.tiles
        if tile.tile_id in announced and retry_of(tile.tile_id)
    }


def _uploaded_tile(
    tile: TileRow,
    place: Body,
    messages: Mapping[str, Body],
    retried: Mapping[tuple[int, int], float],
) -> Any:
    x_nm, y_nm = tile.body.get("stage_position") or place["stage_position"]
    verdict = messages.get(VERDICT) or messages.get(PRELIMINARY, {})
    statistics = _statistics(messages) or _statistics_on_disk(tile)
    matches = [
        match
        for match in messages.get("tile.matches", {}).get("matches", ())
        # Else it was measured against the frame that was rejected.
        if retried.get((match["row"], match["column"]), 0.0) <= tile.sent_at
    ]
    # Checked together with the whole, so that one sentence has all that is wrong.
    return {
        "tile_id": tile.tile_id,
        "raster_index": place["raster_index"],
        "row": tile.body["row"],
        "column": tile.body["column"],
        "stage_x_nm": x_nm,
        "stage_y_nm": y_nm,
        "sha256": tile.sha256,
        "bytes": tile.bytes,
        "statistics": statistics,
        "matches": tuple(_match(match) for match in matches),
        "passed": verdict.get("passed"),
        "faults": tuple(verdict.get("faults", ())),
        "missing": _missing(tile, messages, measured=statistics is not None),
    }


def _missing(
    tile: TileRow, messages: Mapping[str, Body], *, measured: bool
) -> tuple[TilePart, ...]:
    """What was neither received of a tile nor lies beside its frame."""
    there: dict[TilePart, bool] = {
        "processed frame": "tile.processed" in messages
        or Path(processed_path(tile.path)).is_file(),
        "figures": measured,
        "matches": "tile.matches" in messages
        or Path(matches_path(tile.path)).is_file(),
        "verdict": VERDICT in messages,
    }
    return tuple(part for part, is_there in there.items() if not is_there)


def _statistics(messages: Mapping[str, Body]) -> MeasuredTile | None:
    levels = messages.get("tile.statistics.min_max_mean")
    focus = messages.get("tile.statistics.focus")
    # aloha measures a tile of which there are none on the disk either
    if levels is None or focus is None:
        return None
    return MeasuredTile(
        minimum=levels["min"],
        maximum=levels["max"],
        mean=levels["mean"],
        std=levels["std"],
        focus_score=inverted_focus(focus["focus"]),
    )


def _statistics_on_disk(tile: TileRow) -> MeasuredTile | None:
    """Those of the processed frame, where their messages were lost."""
    # Seldom needed, and it loads what measures.
    from em_platform.acquisition.live_products import measured_tile, recipe_of_tile

    recipe = recipe_of_tile(tile.path, tile.tile_id, tile.montage_id)
    try:
        stats = recipe and measured_tile(tile.path, tile.tile_id, recipe)
    except DataError as error:
        log.warning("buffer: %s", error)
        return None
    if not stats:
        return None
    return MeasuredTile(
        minimum=stats.minimum,
        maximum=stats.maximum,
        mean=round(stats.mean),  # whole grey levels, as the message has them
        std=round(stats.std),
        focus_score=stats.focus,
    )


def _match(match: Body) -> NeighbourMatch:
    return NeighbourMatch(
        row=match["row"],
        column=match["column"],
        position=match["position"],
        dx_px=match["dX"],
        dy_px=match["dY"],
        dx_std_px=match["dXsd"],
        dy_std_px=match["dYsd"],
        distance_px=match["distance"],
        rotation_rad=match["rotation"],
        tile_points=tuple(zip(match["pY"], match["pX"], strict=True)),
        neighbour_points=tuple(zip(match["qY"], match["qX"], strict=True)),
    )


def _instrument(messages: Body, settings: AcquisitionSettings) -> UsedInstrument:
    camera, scope = messages.get("camera.status", {}), messages.get("scope.status", {})
    # TEM_comms has it as a number or a text
    depth = str(camera.get("bit_depth", ""))
    return UsedInstrument(
        microscope=settings.microscope,
        camera_model=camera.get("device_model_id", "unknown"),
        camera_serial=camera.get("device_sn", "unknown"),
        camera_bit_depth=int(depth) if depth.isdecimal() else None,
        exposure_us=camera.get("exposure"),
        magnification=scope.get("mag", settings.magnification),
        spot_size=scope.get("spot_size"),
        tank_voltage_kv=scope.get("tank_voltage"),
    )
