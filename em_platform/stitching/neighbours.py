"""Which tiles overlap as imaged, and the part of each that the other sees."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from em_platform.model import Box, Montage, Shift, Tile
from em_platform.stitching.tile_images import TileImages

Side = Literal["right", "below"]

# Two tiles are neighbours when they share this part of their length along the seam;
# the corners that diagonal tiles share in a usual montage are left out.
MIN_SEAM_FRACTION = 0.4
_TOUCH_PX = 0.5  # tiles that abut are no further apart, and share no more

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
        # Only tiles that came before are there, so that each pair comes once.
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


def abut(montage: Montage) -> bool:
    """Whether tiles end where their neighbours begin, all of them, and none overlap."""
    touching = find_neighbours(montage, min_overlap_px=-_TOUCH_PX)
    if any(p.overlap_height_px > _TOUCH_PX < p.overlap_width_px for p in touching):
        return False
    ends = [(pair.a.tile_id, pair.b.tile_id) for pair in touching]
    reached, before = set(ends[0] if ends else ()), 0
    # One look a row of tiles, or less: a gap between rows is no touch.
    while len(reached) > before:
        before = len(reached)
        for pair in ends:
            if not reached.isdisjoint(pair):
                reached.update(pair)
    return bool(ends) and len(reached) == len(montage.tiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A part of a tile; `corner` is its first pixel `(y, x)` in the tile.

    Pixels outside the mask have the mean grey level of those inside.
    """

    corner: tuple[int, int]
    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_] | None


class StripReader:
    """Gives the strips of a block of pairs; reads each tile once.

    A tile is dropped after its last pair, so that of a block whose pairs come row by
    row only about one row is held.
    """

    def __init__(
        self, pairs: tuple[Neighbours, ...], images: TileImages, *, reach_px: int
    ) -> None:
        self._images = images
        self._held: dict[str, Strip] = {}
        self._uses: Counter[str] = Counter()
        self._needed: dict[str, Box] = {}
        self._boxes: dict[tuple[str, str], tuple[Box, Box]] = {}
        valid = {t.tile_id: images.valid(t) for p in pairs for t in (p.a, p.b)}
        for pair in pairs:
            key = (pair.a.tile_id, pair.b.tile_id)
            self._boxes[key] = strip_boxes(pair, valid=valid, reach_px=reach_px)
            for tile_id, box in zip(key, self._boxes[key], strict=True):
                self._uses[tile_id] += 1
                # One read has to serve all pairs of the tile in this block.
                self._needed[tile_id] = _union(self._needed.get(tile_id, box), box)

    def take(self, pair: Neighbours) -> tuple[Strip, Strip]:
        """The strips of a and of b; each pair may be taken once.

        Raises
        ------
        DataError
            One of the two tiles cannot be read.
        """
        a_box, b_box = self._boxes[pair.a.tile_id, pair.b.tile_id]
        self._uses.subtract((pair.a.tile_id, pair.b.tile_id))
        try:
            return self._strip(pair.a, a_box), self._strip(pair.b, b_box)
        finally:
            # Also after a failed read: the block goes on, and memory is bounded.
            for tile_id in (pair.a.tile_id, pair.b.tile_id):
                if self._uses[tile_id] == 0:
                    self._held.pop(tile_id, None)

    def _strip(self, tile: Tile, box: Box) -> Strip:
        whole = self._held.get(tile.tile_id)
        if whole is None:
            whole = self._read(tile, self._needed[tile.tile_id])
            self._held[tile.tile_id] = whole
        y, x = whole.corner
        part = np.s_[box.y0 - y : box.y1 - y, box.x0 - x : box.x1 - x]
        image = whole.image[part]
        mask = None if whole.mask is None else whole.mask[part]
        # A mask that hides nothing here would only cost time.
        if mask is not None and mask.all():
            mask = None
        if mask is not None and mask.any():
            image = np.where(mask, image, np.uint8(image[mask].mean()))
        return Strip(corner=(box.y0, box.x0), image=image, mask=mask)

    def _read(self, tile: Tile, box: Box) -> Strip:
        if box.y0 >= box.y1 or box.x0 >= box.x1:
            nothing = np.zeros((0, 0), np.uint8)
            return Strip(corner=(box.y0, box.x0), image=nothing, mask=None)
        mask = self._images.mask(tile)
        return Strip(
            corner=(box.y0, box.x0),
            image=self._images.read(tile, box),
            mask=None if mask is None else mask[box.y0 : box.y1, box.x0 : box.x1],
        )


def strip_boxes(
    pair: Neighbours, *, valid: dict[str, Box], reach_px: int
) -> tuple[Box, Box]:
    """Where the overlap lies in a and in b if the stage is off by up to `reach_px`.

    `valid` holds the part of each tile that shows the specimen; a box may be empty.
    """
    dy, dx = pair.nominal.dy_px, pair.nominal.dx_px
    a, b = pair.a.size, pair.b.size
    y0, y1 = max(0.0, dy), min(a.height_px, dy + b.height_px)
    x0, x1 = max(0.0, dx), min(a.width_px, dx + b.width_px)
    boxes = []
    for tile, oy, ox in ((pair.a, 0.0, 0.0), (pair.b, dy, dx)):
        limit = valid[tile.tile_id]
        top = max(limit.y0, math.floor(y0 - oy) - reach_px)
        left = max(limit.x0, math.floor(x0 - ox) - reach_px)
        bottom = min(limit.y1, math.ceil(y1 - oy) + reach_px)
        right = min(limit.x1, math.ceil(x1 - ox) + reach_px)
        boxes.append(Box(y0=top, x0=left, y1=max(top, bottom), x1=max(left, right)))
    return boxes[0], boxes[1]


def _union(one: Box, other: Box) -> Box:
    return Box(
        y0=min(one.y0, other.y0),
        x0=min(one.x0, other.x0),
        y1=max(one.y1, other.y1),
        x1=max(one.x1, other.x1),
    )
