"""Tiles laid out in a mosaic: the pixels that each covers, and how it is sampled."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FitFailed
from em_platform.imaging.lens import distort_points, undistort_points
from em_platform.model import Box, LensModel, Montage, MontageFit, Tile, TilePlacement
from em_platform.stitching.blend import STEP_PX
from em_platform.stitching.canvas import within_reach
from em_platform.stitching.tile_images import TileImages

# A lens is smooth: between points so near an edge is all but straight.
_OUTLINE_STEP_PX = 64
_FRACTIONS = 4096  # places are rounded to this part of a pixel

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTile:
    """A tile and the box of mosaic pixels that its valid region reaches."""

    tile: Tile
    place: TilePlacement
    valid: Box
    box: Box
    is_shifted: bool

    @property
    def whole_shift(self) -> tuple[int, int, float, float]:
        """`y, x, fy, fx`: mosaic pixel p shows tile pixel p + (y, x) + (fy, fx)."""
        y, x = math.floor(-self.place.y_px), math.floor(-self.place.x_px)
        return y, x, -self.place.y_px - y, -self.place.x_px - x


@dataclass(frozen=True, slots=True, kw_only=True)
class LensGrid:
    """Where corrected places lie in a raw tile, on nodes `STEP_PX` apart.

    `raw` is `(2, n, m)`; node `(i, j)` is the corrected place
    `(i, j) * STEP_PX - margin_px`.
    """

    raw: NDArray[np.float32]
    margin_px: int

    def __call__(self, points: Points) -> Points:
        """Raw places of corrected points `(2, n, m)`."""
        nodes = ((points + self.margin_px) / STEP_PX).astype(np.float32)
        offset = [
            cv2.remap(plane, nodes[1], nodes[0], cv2.INTER_LINEAR) for plane in self.raw
        ]
        raw: Points = points + np.stack(offset)
        return raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All tiles of a mosaic, in the order in which they are added.

    `origin_px` is the mosaic's first pixel in the frame of the fit.
    """

    tiles: tuple[PlacedTile, ...]
    shape: tuple[int, int]
    origin_px: tuple[int, int]


def lay_out(
    montage: Montage, fit: MontageFit, images: TileImages, *, lens: LensModel | None
) -> Layout:
    """The tiles that the fit places, and the mosaic that just holds them."""
    tiles = {tile.tile_id: tile for tile in montage.tiles}
    placed = [
        _reach(tiles[place.tile_id], place, images.valid(tiles[place.tile_id]), lens)
        for place in fit.placements
        if place.tile_id in tiles
    ]
    _check_extent(placed, montage)
    placed = [p for p in placed if p.box.y1 > p.box.y0 and p.box.x1 > p.box.x0]
    if not placed:
        raise FitFailed(
            f"mosaic of {montage.acquisition_id}: no tile with a valid region has a "
            "place, at least one is needed; look at the montage's failures"
        )
    # Whole pixels: fractions of places, and so grey levels, do not change by it.
    y0, x0 = min(p.box.y0 for p in placed), min(p.box.x0 for p in placed)
    y1, x1 = max(p.box.y1 for p in placed), max(p.box.x1 for p in placed)
    return Layout(
        tiles=tuple(_moved(p, y0, x0) for p in placed),
        shape=(y1 - y0, x1 - x0),
        origin_px=(y0, x0),
    )


def _check_extent(placed: Sequence[PlacedTile], montage: Montage) -> None:
    """Refuse places of which one lies far from the others, whoever gave them."""
    y_px, x_px = ([getattr(p.place, a) for p in placed] for a in ("y_px", "x_px"))
    near = within_reach(y_px, x_px, montage.tile_size) if placed else np.ones(0)
    if not near.all():
        first = placed[int(near.argmin())].place
        raise FitFailed(
            f"mosaic of {montage.acquisition_id}: tile {first.tile_id} is placed at "
            f"x = {first.x_px:g}, y = {first.y_px:g} px, far from all others, expected "
            "it within the montage; correct its place, or take it off the list"
        )


def _reach(
    tile: Tile, place: TilePlacement, valid: Box, lens: LensModel | None
) -> PlacedTile:
    place = place.model_copy(
        update={
            "y_px": round(place.y_px * _FRACTIONS) / _FRACTIONS,
            "x_px": round(place.x_px * _FRACTIONS) / _FRACTIONS,
        }
    )
    # The fast kernels know neither lens nor mask nor turn.
    is_shifted = (
        lens is None
        and tile.mask_uri is None
        and (place.yy, place.yx, place.xy, place.xx) == (1.0, 0.0, 0.0, 1.0)
    )
    empty = valid.y1 <= valid.y0 or valid.x1 <= valid.x0
    box = Box(y0=0, x0=0, y1=0, x1=0) if empty else _covered(place, valid, lens)
    return PlacedTile(
        tile=tile, place=place, valid=valid, box=box, is_shifted=is_shifted
    )


def _covered(place: TilePlacement, valid: Box, lens: LensModel | None) -> Box:
    outline = _outline(valid)
    if lens is not None:
        outline = undistort_points(lens, outline)
    there = outline @ _matrix(place).T + (place.y_px, place.x_px)
    (top, left), (bottom, right) = there.min(axis=0), there.max(axis=0)
    return Box(
        y0=math.ceil(top),
        x0=math.ceil(left),
        y1=math.floor(bottom) + 1,
        x1=math.floor(right) + 1,
    )


def _outline(valid: Box) -> Points:
    """Pixel centres along the edge of a box, `(n, 2)`."""
    ys = np.append(np.arange(valid.y0, valid.y1 - 1, _OUTLINE_STEP_PX), valid.y1 - 1)
    xs = np.append(np.arange(valid.x0, valid.x1 - 1, _OUTLINE_STEP_PX), valid.x1 - 1)
    sides = [np.stack([ys, np.full(len(ys), x)], axis=1) for x in (xs[0], xs[-1])]
    sides += [np.stack([np.full(len(xs), y), xs], axis=1) for y in (ys[0], ys[-1])]
    return np.concatenate(sides).astype(np.float64)


def _matrix(place: TilePlacement) -> Points:
    return np.array([[place.yy, place.yx], [place.xy, place.xx]])


def _moved(placed: PlacedTile, y0: int, x0: int) -> PlacedTile:
    place, box = placed.place, placed.box
    return PlacedTile(
        tile=placed.tile,
        place=place.model_copy(
            update={"y_px": place.y_px - y0, "x_px": place.x_px - x0}
        ),
        valid=placed.valid,
        box=Box(y0=box.y0 - y0, x0=box.x0 - x0, y1=box.y1 - y0, x1=box.x1 - x0),
        is_shifted=placed.is_shifted,
    )


def lens_grid(lens: LensModel) -> LensGrid:
    """The inverse of a lens's displacement, on a grid that reaches beyond the tile."""
    corners = _outline(Box(y0=0, x0=0, y1=lens.size.height_px, x1=lens.size.width_px))
    reach = float(np.abs(undistort_points(lens, corners) - corners).max())
    # One step more: the outermost place lies between nodes.
    margin_px = STEP_PX * (math.ceil(reach / STEP_PX) + 1)
    ys, xs = (
        np.arange(-margin_px, length + margin_px + STEP_PX, STEP_PX, dtype=np.float64)
        for length in (lens.size.height_px, lens.size.width_px)
    )
    nodes = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)
    # Offsets and not places: single precision keeps more of their fractions.
    offset = (distort_points(lens, nodes) - nodes).T.reshape(2, len(ys), len(xs))
    return LensGrid(raw=np.ascontiguousarray(offset, np.float32), margin_px=margin_px)


def node_grid(placed: PlacedTile, grid: LensGrid | None) -> Points:
    """Which tile pixel is at each node of the mosaic, from the box's corner on.

    Returns
    -------
    NDArray[np.float64]
        `(2, n, m)`: y and x in the raw tile; nodes are `STEP_PX` apart.
    """
    box, place = placed.box, placed.place
    ys, xs = (
        np.arange(start, stop + STEP_PX, STEP_PX, dtype=np.float64) - at
        for start, stop, at in (
            (box.y0, box.y1, place.y_px),
            (box.x0, box.x1, place.x_px),
        )
    )
    there = np.stack(np.meshgrid(ys, xs, indexing="ij"))
    back = np.linalg.inv(_matrix(place))
    points = np.einsum("ij,jyx->iyx", back, there)
    return np.ascontiguousarray(points if grid is None else grid(points))


class SpatialIndex:
    """Finds the boxes that a region touches, in a time that does not grow with them."""

    def __init__(self, boxes: Sequence[Box], *, cell_px: int) -> None:
        self._cell_px = cell_px
        self._cells: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, box in enumerate(boxes):
            for cell in self._over(box):
                self._cells[cell].append(number)

    def near(self, region: Box) -> list[int]:
        """Numbers, in order, of all boxes that touch `region`, and a few more."""
        cells = (self._cells.get(cell, ()) for cell in self._over(region))
        # Sorted: sums are made in one order, so that every cut gives the same bits.
        return sorted({number for cell in cells for number in cell})

    def _over(self, box: Box) -> Iterable[tuple[int, int]]:
        step = self._cell_px
        for row in range(box.y0 // step, -(-box.y1 // step)):
            for column in range(box.x0 // step, -(-box.x1 // step)):
                yield row, column
