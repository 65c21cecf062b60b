"""What has come about one montage while it is imaged, and the montage that it makes."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.frame_paths import retry_of
from em_platform.acquisition.raster import OFF_RASTER, image_position
from em_platform.messaging.topics import Body, inverted_focus
from em_platform.model import Montage, Shift, Size, Tile, TileMatch
from em_platform.stitching.match import shift_of
from em_platform.stitching.sidecar_files import processed_path

Cell = tuple[int, int]
Kept: TypeAlias = dict[str, Any]
"""What is kept of a message, see `body_of`."""

RAW, FOCUS = "tile.raw", "tile.statistics.focus"
MINI, MATCHES = "tile.mini", "tile.matches"
TOPICS = (RAW, FOCUS, MINI, MATCHES)

_FIELDS = ("tile_id", "montage_id", "row", "column", "overlap")


@dataclass(slots=True, kw_only=True)
class GrowingTile:
    """One tile: where it is in the raster, on the stage and on disk; its focus.

    `focus` is higher for a sharper tile; `mini` is the picture as it came.
    `made` remembers what `tile_matches` made of `matches`, by the neighbour's cell.
    """

    tile_id: str
    cell: Cell
    overlap_px: int = 0
    stage_nm: tuple[int, int] | None = None
    path: str = ""
    is_lens: bool = False
    focus: float | None = None
    mini: bytes = b""
    matches: list[Body] | None = None
    made: dict[Cell, TileMatch] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class LiveMontage:
    """One acquisition; `version` counts what changed the picture of it.

    `complete` is the body of `montage.complete` as far as it is needed, `complete_s`
    the monotonic time of its arrival. `is_done`: its fit was judged.
    """

    acquisition_id: str
    montage_id: str = ""
    tiles: dict[str, GrowingTile] = field(default_factory=dict)
    complete: Body | None = None
    complete_s: float = 0.0
    is_done: bool = False
    version: int = 0

    @property
    def is_lens(self) -> bool:
        """Whether it was imaged to measure the lens."""
        return any(tile.is_lens for tile in self.tiles.values())

    @property
    def expected(self) -> list[str]:
        """The tiles that `montage.complete` names."""
        return list(self.complete["tiles"]) if self.complete else []

    def has_all(self) -> bool:
        """Whether the matches and minis of all the expected tiles are there."""
        known = (self.tiles.get(tile_id) for tile_id in self.expected)
        return all(t is not None and t.matches is not None and t.mini for t in known)

    def has(self, topic: str, tile_id: str) -> bool:
        """Whether a message about a tile came already."""
        tile = self.tiles.get(tile_id)
        if tile is None:
            return False
        there = {
            RAW: bool(tile.path),
            FOCUS: tile.focus is not None,
            MINI: bool(tile.mini),
            MATCHES: tile.matches is not None,
        }
        return there[topic]

    def take(self, topic: str, body: Body) -> bool:
        """Add the content of one message; whether it was news."""
        if self._is_superseded(body):
            return False
        tile = self._tile(body)
        before = (tile.path, tile.is_lens, tile.focus, tile.mini, tile.matches is None)
        if topic == RAW:
            tile.path, tile.is_lens = body["path"], body["lens_correction"]
        elif topic == FOCUS:
            tile.focus = body["focus"]
        elif topic == MINI:
            tile.mini = _decoded(body["image"])
        # the first of each kind counts, see decisions/0021
        elif tile.matches is None:
            tile.matches = body["matches"]
        after = (tile.path, tile.is_lens, tile.focus, tile.mini, tile.matches is None)
        self.version += before != after
        return before != after

    def finish(self, body: Body, now_s: float) -> bool:
        """Take `montage.complete`; whether it was news."""
        if self.complete is not None:
            return False
        self.complete, self.complete_s = body, now_s
        self.version += 1
        places = {(place["row"], place["column"]) for place in body["tiles"].values()}
        for tile in list(self.tiles.values()):
            if tile.tile_id not in body["tiles"] and tile.cell in places:
                del self.tiles[tile.tile_id]  # a retry of it was not announced
        for tile_id, place in body["tiles"].items():
            if tile_id not in self.tiles:
                self.tiles[tile_id] = GrowingTile(
                    tile_id=tile_id,
                    cell=(place["row"], place["column"]),
                    stage_nm=(place["x_nm"], place["y_nm"]),
                )
        return True

    def _is_superseded(self, body: Body) -> bool:
        """Whether the tile was imaged again since; earlier frames of it are dropped."""
        cell, retry = (body["row"], body["column"]), retry_of(body["tile_id"])
        if body["tile_id"] in self.tiles:
            return False
        known = [tile for tile in self.tiles.values() if tile.cell == cell]
        for tile in known:
            if retry_of(tile.tile_id) < retry:
                del self.tiles[tile.tile_id]
        return any(retry_of(tile.tile_id) > retry for tile in known)

    def _tile(self, body: Body) -> GrowingTile:
        tile = self.tiles.setdefault(
            body["tile_id"],
            GrowingTile(tile_id=body["tile_id"], cell=(body["row"], body["column"])),
        )
        self.montage_id = body["montage_id"]
        tile.overlap_px = body["overlap"] or tile.overlap_px
        tile.stage_nm = body["stage_position"] or tile.stage_nm
        return tile


def body_of(topic: str, message: Any) -> Kept:
    """What is kept of a message about a tile."""
    body: Kept = {name: getattr(message, name) for name in _FIELDS}
    body["stage_position"] = message.stage_position
    if topic == RAW:
        body |= {"path": message.path, "lens_correction": bool(message.lens_correction)}
    elif topic == FOCUS:
        body["focus"] = inverted_focus(message.focus)
    elif topic == MINI:
        body["image"] = message.image
    else:
        body["matches"] = [
            {
                "cell": [m.row, m.column],
                **{name: getattr(m, name) for name in ("pX", "pY", "qX", "qY")},
            }
            for m in message.matches
        ]
    return body


def complete_body(message: Any) -> Kept:
    """What is kept of `montage.complete`."""
    return {
        "montage_id": message.montage_id,
        "acquisition_id": message.acquisition_id,
        "pixel_nm": message.pixel_size,
        "rotation_rad": message.rotation_angle,
        "tiles": {
            tile_id: {
                "column": tile.raster_position[0],
                "row": tile.raster_position[1],
                "x_nm": tile.stage_position[0],
                "y_nm": tile.stage_position[1],
            }
            for tile_id, tile in message.tiles.items()
        },
    }


def as_montage(growing: LiveMontage, size: Size, *, microscope: str = "sim") -> Montage:
    """The montage of all tiles that are known, at their nominal places."""
    tiles = sorted(growing.tiles.values(), key=lambda tile: tile.cell)
    places = _stage_places(growing, tiles, size)
    return Montage(
        acquisition_id=growing.acquisition_id,
        montage_id=growing.montage_id,
        tiles=tuple(
            Tile(
                tile_id=tile.tile_id,
                uri=_best_uri(tile),
                row=tile.cell[0],
                column=tile.cell[1],
                y_px=float(place[0]),
                x_px=float(place[1]),
                size=size,
            )
            for tile, place in zip(tiles, places, strict=True)
        ),
        tile_size=size,
        microscope=microscope,
        expected_tiles=len(growing.expected) or len(tiles),
    )


def _stage_places(
    growing: LiveMontage, tiles: list[GrowingTile], size: Size
) -> NDArray[np.float64]:
    """As the pipeline has them, once pixel size and rotation are known and seem right.

    Where a tile would lie half a tile off the raster they are not: then as
    `nominal_places`.
    """
    fitted = nominal_places(tiles, size)
    pixel_nm = (growing.complete or {}).get("pixel_nm")
    if not pixel_nm or not tiles or any(tile.stage_nm is None for tile in tiles):
        return fitted
    turn = growing.complete["rotation_rad"] if growing.complete else 0.0
    places = np.array(
        [
            image_position(x_nm, y_nm, pixel_nm=pixel_nm, rotation_rad=turn)
            for x_nm, y_nm in (tile.stage_nm or (0, 0) for tile in tiles)
        ]
    )
    places -= places.min(axis=0)
    off = np.abs(places - fitted) / (size.height_px, size.width_px)
    # A wrong pixel size or rotation in the settings must not tear the picture apart.
    return fitted if off.max() > OFF_RASTER else places


def nominal_places(tiles: list[GrowingTile], size: Size) -> NDArray[np.float64]:
    """`(n, 2)` corners in px, the smallest at zero, from the stage and the raster.

    The raster gives the steps, and so, by least squares, what one nanometre of the
    stage is in pixels and how it is turned: neither need be known. Where the stage has
    no position, or the tiles lie in one line, the raster alone counts.
    """
    overlaps = [tile.overlap_px for tile in tiles if tile.overlap_px]
    shared = float(np.median(overlaps)) if overlaps else 0.0
    step = np.array([size.height_px - shared, size.width_px - shared])
    by_raster = np.array([tile.cell for tile in tiles], float).reshape(-1, 2) * step
    places = by_raster
    if tiles and all(tile.stage_nm is not None for tile in tiles):
        stage = np.array([tile.stage_nm for tile in tiles], float)
        # about its middle: a line that misses zero would have rank 2
        stage -= stage.mean(axis=0)
        design = np.concatenate([stage, np.ones((len(tiles), 1))], axis=1)
        # 0.01: the jitter of a single line is no second direction
        if np.linalg.matrix_rank(stage / max(1.0, np.abs(stage).max()), 0.01) == 2:
            places = design @ np.linalg.lstsq(design, by_raster)[0]
    return np.asarray(places - places.min(axis=0) if len(places) else places)


def tile_matches(growing: LiveMontage, montage: Montage) -> tuple[TileMatch, ...]:
    """The received matches, the upper or left tile first; what is no pair is left out.

    The messages have neither score nor peak; both are 0.
    """
    at = {tile.cell: tile.tile_id for tile in growing.tiles.values()}
    order_of = {tile_id: n for n, tile_id in enumerate(growing.tiles)}
    places = {tile.tile_id: (tile.y_px, tile.x_px) for tile in montage.tiles}
    found: dict[tuple[str, str], TileMatch] = {}
    for tile in growing.tiles.values():
        for match in tile.matches or ():
            cell = (match["cell"][0], match["cell"][1])
            other = at.get(cell)
            if other is None or other == tile.tile_id:
                continue
            if retry_of(other) and order_of[other] > order_of[tile.tile_id]:
                continue  # it was measured against the frame that was rejected
            made = tile.made.get(cell)
            if made is None:
                made = _as_match(match, other, own=tile.tile_id, places=places)
            if made.points:  # without any its shift is the nominal one, which changes
                tile.made[cell] = made
            before = found.get((made.a, made.b))
            if before is None or not before.points:
                found[made.a, made.b] = made
    order = {tile.tile_id: n for n, tile in enumerate(montage.tiles)}
    keys = sorted(found, key=lambda pair: (order[pair[0]], order[pair[1]]))
    return tuple(found[key] for key in keys)


def without_points(matches: tuple[TileMatch, ...]) -> tuple[TileMatch, ...]:
    """The same shifts for a fit that only moves tiles; it is much faster."""
    bare = {"a_points": (), "b_points": ()}
    return tuple(match.model_copy(update=bare) for match in matches)


def _as_match(
    match: Body, other: str, *, own: str, places: Mapping[str, Cell | tuple[float, ...]]
) -> TileMatch:
    # p lie in the tile itself, q in its neighbour (TEM_comms)
    p = np.array([match["pY"], match["pX"]], float).T.reshape(-1, 2)
    q = np.array([match["qY"], match["qX"]], float).T.reshape(-1, 2)
    a, b, at_a, at_b = other, own, q, p
    away = np.subtract(places[own], places[other])
    # along the axis on which they are apart; on the other it is jitter
    if away[np.argmax(np.abs(away))] < 0:  # imaged from right to left
        a, b, at_a, at_b = own, other, p, q
        away = -away
    shifts = at_a - at_b
    shift = shift_of(at_a, at_b) if len(shifts) else tuple(away)
    # of one axis: the mean of both variances
    spread = float(np.sqrt(shifts.var(axis=0).sum() / 2)) if len(shifts) else 0.0
    return TileMatch(
        a=a,
        b=b,
        shift=Shift(dy_px=float(shift[0]), dx_px=float(shift[1])),
        score=0.0,
        points=len(shifts),
        peak_z=0.0,
        spread_px=spread,
        a_points=tuple(map(tuple, at_a.tolist())),
        b_points=tuple(map(tuple, at_b.tolist())),
        kept=len(shifts) > 0,
        reason="" if len(shifts) else "the pipeline found no points that agree",
    )


def _best_uri(tile: GrowingTile) -> str:
    """The processed frame where it is there, else the raw one."""
    if not tile.path:
        return ""
    processed = processed_path(tile.path)
    return processed if Path(processed).is_file() else tile.path


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        # as one that was missed: it is made from the frame at the end
        return b""
