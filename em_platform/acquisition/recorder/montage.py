"""From the recorded messages of one montage to the montage; no table, no bus."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from em_platform.acquisition.frame_paths import checked_frame
from em_platform.acquisition.montages.stored import Locate, locator
from em_platform.acquisition.raster import image_position
from em_platform.acquisition.recorder.events import Event, safe_id
from em_platform.errors import DataError
from em_platform.messaging.limits import sent_ms
from em_platform.messaging.topics import Body
from em_platform.model import Failure, Montage
from em_platform.stitching.intake import montage_of
from em_platform.stitching.tile_list import InputOptions, ListedTile, TileList
from em_platform.storage import Store

Pair = tuple[float, float]


def recorded_montage(
    complete: Event,
    frames: Sequence[Event],
    *,
    microscope: str,
    magnification: int | None,
    planned_tiles: int = 0,
    store: Store | None = None,
    folder: Path | None = None,
) -> Montage:
    """The montage that `montage.complete` announced, of the frames in `tile.raw`.

    Frames that do not belong to it are left out; of a tile that was published twice the
    last frame counts. What is missing or cannot be used becomes a failure, and so do
    tiles of the raster that were never announced: `planned_tiles` is its size as
    `montage.status` says it, 0 where no status was recorded. A frame that
    has left the disk is read from `store`, where aloha has put it. A frame whose path
    is not that of its own in `folder` is a failure.

    Raises
    ------
    DataError
        Not one tile can be used.
    """
    body = complete.body
    # In the order of recording, so that the last frame of a tile stands.
    found = {frame.body["tile_id"]: frame for frame in frames}
    planned = max(planned_tiles, _raster_tiles(body), len(body["tiles"]))
    announced = sorted(body["tiles"], key=lambda t: body["tiles"][t]["raster_index"])
    acquisition_id = safe_id(body["acquisition_id"])
    locate = locator(acquisition_id, store) if store else _as_imaged
    uris, refused = _checked(
        [found[tile_id] for tile_id in announced if tile_id in found],
        body["montage_id"],
        folder=folder,
        locate=locate,
    )
    present = list(uris)
    places = _nominal_px(
        [_stage_nm(body, found[tile_id]) for tile_id in present],
        pixel_nm=body["pixel_size"],
        rotation_rad=body["rotation_angle"],
    )
    listed = [
        _listed(body, found[tile_id], at_px=place, uri=uris[tile_id])
        for tile_id, place in zip(present, places, strict=True)
    ]
    montage = montage_of(
        TileList(
            uri=f"montage {acquisition_id}",
            tiles=tuple(listed),
            failures=(
                *refused,
                *(_missing(t, body) for t in announced if t not in found),
                *_unannounced(body, planned),
            ),
            planned_tiles=planned,
            pixel_nm=body["pixel_size"],
            microscope=microscope,
            modality="TEM",  # whose scope, stage and camera the messages are of
            magnification=magnification,
            started_at=datetime.fromisoformat(body["start_time"]),
            ended_at=_sent_at(complete),
        ),
        InputOptions(options=store.options if store else {}),
        name=acquisition_id,
    )
    return montage.model_copy(update={"montage_id": body["montage_id"]})


def _nominal_px(
    stages_nm: Sequence[Pair], *, pixel_nm: float, rotation_rad: float
) -> list[Pair]:
    """All places, with the smallest y and x at zero."""
    places = [
        image_position(x_nm, y_nm, pixel_nm=pixel_nm, rotation_rad=rotation_rad)
        for y_nm, x_nm in stages_nm
    ]
    top = min((y for y, _ in places), default=0.0)
    left = min((x for _, x in places), default=0.0)
    return [(y - top, x - left) for y, x in places]


def _stage_nm(body: Body, frame: Event) -> Pair:
    """Where the stage stood for one frame, `(y, x)`; the frame's own word counts."""
    x, y = (
        frame.body.get("stage_position")
        or body["tiles"][frame.body["tile_id"]]["stage_position"]
    )
    return float(y), float(x)


def _as_imaged(_: str, uri: str) -> str:
    return uri


def _checked(
    frames: Sequence[Event], montage_id: str, *, folder: Path | None, locate: Locate
) -> tuple[dict[str, str], list[Failure]]:
    """Where each frame can be read now, and those that are read from nowhere."""
    uris: dict[str, str] = {}
    refused = []
    for frame in frames:
        tile_id, path = frame.body["tile_id"], frame.body["path"]
        try:
            if folder is not None:
                checked_frame(folder, path, montage_id, tile_id)
        except DataError as error:
            # Where the folder has another name since, what aloha stored still counts.
            nowhere = f"{os.devnull}/{tile_id}"
            stored = locate(tile_id, nowhere)
            if stored == nowhere:
                refused.append(
                    Failure(item=tile_id, error="DataError", sentence=str(error))
                )
            else:
                uris[tile_id] = stored
        else:
            uris[tile_id] = locate(tile_id, path)
    return uris, refused


def _listed(body: Body, frame: Event, *, at_px: Pair, uri: str) -> ListedTile:
    tile_id = frame.body["tile_id"]
    return ListedTile(
        name=tile_id,
        uri=uri,
        y_px=at_px[0],
        x_px=at_px[1],
        row=frame.body["row"],
        column=frame.body["column"],
        stage_nm=_stage_nm(body, frame),
    )


def _missing(tile_id: str, body: Body) -> Failure:
    column, row = body["tiles"][tile_id]["raster_position"]
    return Failure(
        item=tile_id,
        error="RecordError",
        sentence=(
            f"tile {tile_id}: announced at row {row}, column {column} of montage "
            f"{body['montage_id']}, but no frame of it was recorded, one was "
            "expected; image it again"
        ),
    )


def _raster_tiles(body: Body) -> int:
    """How many tiles the raster has at least: its indices count from 0 or from 1."""
    indices = [tile["raster_index"] for tile in body["tiles"].values()]
    return max(indices) + 1 - min(1, min(indices)) if indices else 0


def _unannounced(body: Body, planned: int) -> tuple[Failure, ...]:
    """One failure for all tiles of the raster that `montage.complete` leaves out."""
    announced = len(body["tiles"])
    if announced >= planned:
        return ()
    lost = planned - announced
    return (
        Failure(
            item=f"{lost} tile{'s' * (lost > 1)} of {body['montage_id']}",
            error="RecordError",
            sentence=(
                f"montage {body['montage_id']}: {announced} tiles were announced, "
                f"{planned} were planned; image the others again"
            ),
        ),
    )


def _sent_at(event: Event) -> datetime:
    at_ms = sent_ms(event.headers)
    if at_ms is None:
        return event.recorded_at  # Real devices need not send the header
    return datetime.fromtimestamp(at_ms / 1000, UTC)
