"""The pairs of tiles that should overlap, from where the stage says they lie."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from em_platform.model import Montage, Shift, Tile

Side = Literal["right", "below"]

# Two tiles are neighbours when they share this part of their length along the seam;
# the corners that diagonal tiles share in a usual montage are left out.
MIN_SEAM_FRACTION = 0.4

_PLACES = 3  # of a pixel are more than any stage knows, and coarser than rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Two tiles that should overlap: `b` lies right of or below `a`.

    `nominal` is b's corner relative to a's as the stage has it; the overlap is
    `overlap_height_px` by `overlap_width_px`.
    """

    a: Tile
    b: Tile
    side: Side
    nominal: Shift
    overlap_height_px: float
    overlap_width_px: float


def as_pair(one: Tile, other: Tile) -> Neighbours:
    """Two tiles as neighbours, however little they overlap.

    Which of them is `a`, and `nominal`, do not depend on which is named first, on where
    the montage's frame begins, or on the last digits of a rotation: what is measured of
    a pair is then the same, to the digit, for all who measure it.
    """
    dy = round(other.y_px - one.y_px, _PLACES)
    dx = round(other.x_px - one.x_px, _PLACES)
    side: Side = "right" if abs(dx) >= abs(dy) else "below"
    if (dx if side == "right" else dy) < 0.0:
        return as_pair(other, one)
    height = min(one.size.height_px, dy + other.size.height_px) - max(0.0, dy)
    width = min(one.size.width_px, dx + other.size.width_px) - max(0.0, dx)
    return Neighbours(
        a=one,
        b=other,
        side=side,
        nominal=Shift(dy_px=dy, dx_px=dx),
        overlap_height_px=height,
        overlap_width_px=width,
    )


def _as_neighbours(one: Tile, other: Tile, min_overlap_px: float) -> Neighbours | None:
    pair = as_pair(one, other)
    a, b = pair.a.size, pair.b.size
    along, across = pair.overlap_height_px, pair.overlap_width_px
    smaller = min(a.height_px, b.height_px)
    if pair.side == "below":
        along, across, smaller = across, along, min(a.width_px, b.width_px)
    if across < min_overlap_px or along < MIN_SEAM_FRACTION * smaller:
        return None
    return pair


def _close_pairs(tiles: tuple[Tile, ...]) -> Iterator[tuple[Tile, Tile]]:
    """Every pair whose corners lie in the same or in adjoining cells, once."""
    height = max(tile.size.height_px for tile in tiles)
    width = max(tile.size.width_px for tile in tiles)
    cells: dict[tuple[int, int], list[Tile]] = defaultdict(list)
    for tile in tiles:
        y, x = math.floor(tile.y_px / height), math.floor(tile.x_px / width)
        for cell in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
            for other in cells.get(cell, ()):
                yield other, tile
        cells[y, x].append(tile)


def find_neighbours(
    montage: Montage, *, min_overlap_px: float
) -> tuple[Neighbours, ...]:
    """Pairs of tiles whose nominal overlap is at least `min_overlap_px` wide.

    Tiles are hashed into cells of one tile, so the time grows with the number of tiles
    and not with its square. The pairs are ordered by the place of `a`, then of `b`, in
    the montage.
    """
    if not montage.tiles:
        return ()
    order = {tile.tile_id: i for i, tile in enumerate(montage.tiles)}
    found = (
        _as_neighbours(one, other, min_overlap_px)
        for one, other in _close_pairs(montage.tiles)
    )
    pairs = [pair for pair in found if pair is not None]
    pairs.sort(key=lambda pair: (order[pair.a.tile_id], order[pair.b.tile_id]))
    return tuple(pairs)
