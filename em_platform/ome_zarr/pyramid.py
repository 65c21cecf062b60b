"""One pass over a pyramid: each shard of each level is made once, bottom up.

A shard of level k + 1 covers one or two shards of level k along each axis, so a pyramid
is a tree whose leaves are the shards of level 0. Walked branch by branch it needs one
shard per level and nothing else: memory follows the depth of the tree and not the size
of the image. The tree is cut into units of work that share no shard; the units of one
round end at its root level, from which the next round goes on.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.imaging.resample import halve

Shape = tuple[int, ...]
Region = tuple[slice, ...]
Array = NDArray[Any]
Box = tuple[range, ...]
"""Indices of neighbouring shards along each axis."""

Pool = Callable[[Array, Shape], Array]
"""Makes a level's pixels of those below: pixels, and 1 or 2 for each axis."""

# A longer round reads less again, but a killed unit has more to do anew.
_ROUND_LEVELS = 2
# At least so many, so that workers can share a small image.
_UNITS_WANTED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pyramid:
    """The sizes of all levels, the shape of a shard, and what is halved between them.

    A shard has the same shape on every level. `factors[k]` leads from level k to k + 1:
    2 for an axis that is halved, else 1.
    """

    shapes: tuple[Shape, ...]
    shard_shape: Shape
    factors: tuple[Shape, ...]

    @property
    def top(self) -> int:
        """The number of the smallest level."""
        return len(self.shapes) - 1

    def scale(self, level: int, *, floor: int = 0) -> Shape:
        """How many pixels of level `floor` one of `level` covers along each axis."""
        steps = self.factors[floor:level]
        return tuple(math.prod(axis) for axis in zip(*steps, strict=True)) or (
            (1,) * len(self.shard_shape)
        )

    def grid(self, level: int) -> Shape:
        """How many shards a level has along each axis."""
        return tuple(
            -(-length // edge)
            for length, edge in zip(self.shapes[level], self.shard_shape, strict=True)
        )

    def region(self, level: int, index: Shape) -> Region:
        """The pixels of one shard, cut at the edge of the image."""
        return self.box_region(level, tuple(range(i, i + 1) for i in index))

    def box_region(self, level: int, box: Box) -> Region:
        """The pixels of neighbouring shards, cut at the edge of the image."""
        return tuple(
            slice(part.start * edge, min(part.stop * edge, length))
            for part, edge, length in zip(
                box, self.shard_shape, self.shapes[level], strict=True
            )
        )

    def below(self, level: int, box: Box) -> Box:
        """The shards of the level below from which those of a box are made."""
        return tuple(
            range(part.start * factor, min(part.stop * factor, count))
            for part, factor, count in zip(
                box, self.factors[level - 1], self.grid(level - 1), strict=True
            )
        )


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """Subtrees side by side: from shards of level `floor` up to those of `root`.

    `index` is the first of the shards of `root`, `count` how many there are along each
    axis; empty for one. `new` is the lowest level that it makes: level 0, or the one
    above a floor that an earlier round has made.
    """

    floor: int
    root: int
    index: Shape
    count: Shape = ()
    new: int = 0

    @property
    def name(self) -> str:
        """A name that is unique in its pyramid and safe in a path."""
        return "-".join(str(part) for part in (self.floor, self.root, *self.index))

    def box(self, pyramid: Pyramid) -> Box:
        """Its shards of level `root`."""
        counts = self.count or (1,) * len(self.index)
        return tuple(
            range(i, min(i + many, end))
            for i, many, end in zip(
                self.index, counts, pyramid.grid(self.root), strict=True
            )
        )

    def leaves(self, pyramid: Pyramid) -> Box:
        """Its shards of level `floor`."""
        box = self.box(pyramid)
        for level in range(self.root, self.floor, -1):
            box = pyramid.below(level, box)
        return box


def plan_pyramid(shape: Shape, *, shard_px: int, levels: int) -> Pyramid:
    """The sizes of `levels` levels, each half of the one below, rounded up."""
    shapes = [shape]
    for _ in range(levels - 1):
        shapes.append(tuple(-(-length // 2) for length in shapes[-1]))
    axes = len(shape)
    return Pyramid(
        shapes=tuple(shapes),
        shard_shape=(shard_px,) * axes,
        factors=((2,) * axes,) * (levels - 1),
    )


def count_levels(shape: Shape, *, smallest_px: int) -> int:
    """How many levels there are until the whole image fits into `smallest_px`."""
    longest = max(shape)
    levels = 1
    while longest > smallest_px:
        longest = -(-longest // 2)
        levels += 1
    return levels


def plan_rounds(pyramid: Pyramid) -> list[list[Unit]]:
    """Units of work, round after round; those of one round do not need each other."""
    root = first_root(pyramid, highest=_ROUND_LEVELS)
    return [
        units_of(pyramid, floor=0, root=root),
        *later_rounds(pyramid, floor=root, levels=_ROUND_LEVELS + 1),
    ]


def later_rounds(pyramid: Pyramid, *, floor: int, levels: int) -> list[list[Unit]]:
    """The rounds above level `floor`, each of so many levels."""
    rounds = []
    while floor < pyramid.top:
        root = min(pyramid.top, floor + levels)
        rounds.append(units_of(pyramid, floor=floor, root=root, new=floor + 1))
        floor = root
    return rounds


def first_root(pyramid: Pyramid, *, highest: int, units: int = _UNITS_WANTED) -> int:
    """As high as leaves enough units to share among workers, up to `highest`."""
    for level in range(min(highest, pyramid.top), 0, -1):
        if math.prod(pyramid.grid(level)) >= units:
            return level
    # Too few shards to share: one unit makes the whole image.
    return pyramid.top if math.prod(pyramid.grid(0)) < units else 0


def units_of(
    pyramid: Pyramid, *, floor: int, root: int, count: Shape = (), new: int = 0
) -> list[Unit]:
    """All units between two levels, each with `count` shards of `root` a side."""
    grid = pyramid.grid(root)
    starts = [
        range(0, end, step)
        for end, step in zip(grid, count or (1,) * len(grid), strict=True)
    ]
    return [
        Unit(floor, root, index, count, new) for index in itertools.product(*starts)
    ]


def mean(pixels: Array, factors: Shape) -> Array:
    """Means; the pool of mosaics, where every axis is halved."""
    return halve(pixels, factors)


def build(
    pyramid: Pyramid,
    unit: Unit,
    *,
    read: Callable[[int, Region], Array],
    write: Callable[[int, Shape, Array], None],
    pool: Pool = mean,
    spans: tuple[bool, ...] = (),
) -> None:
    """Make all shards of one unit.

    Parameters
    ----------
    read
        Gives the pixels of a region of level `unit.floor`.
    write
        Takes a shard: level, index and pixels. Called once for each shard from level
        `unit.new` on.
    pool
        Makes the pixels of a level of those below.
    spans
        Axes along which all shards of the unit are read at once; along others a region
        is one shard.
    """
    made = _Shards(pyramid, unit, write=write, pool=pool)
    for box in _read_order(pyramid, unit, spans=spans or (False,) * len(unit.index)):
        made.take_box(box, read=read)


def _read_order(
    pyramid: Pyramid, unit: Unit, *, spans: tuple[bool, ...]
) -> Iterator[Box]:
    """What is read one after the other: branch by branch, so that few stay open."""
    leaves = unit.leaves(pyramid)
    boxes = itertools.product(
        *(
            [part] if span else [range(i, i + 1) for i in part]
            for part, span in zip(leaves, spans, strict=True)
        )
    )
    scales = [
        pyramid.scale(level, floor=unit.floor)
        for level in range(unit.root, unit.floor - 1, -1)
    ]

    def ancestors(box: Box) -> list[Shape]:
        return [
            tuple(part.start // step for part, step in zip(box, scale, strict=True))
            for scale in scales
        ]

    yield from sorted(boxes, key=ancestors)


class _Shards:
    """The shards of a unit that are being made; one is let go when it is whole."""

    def __init__(
        self,
        pyramid: Pyramid,
        unit: Unit,
        *,
        write: Callable[[int, Shape, Array], None],
        pool: Pool,
    ) -> None:
        self._pyramid, self._unit, self._write = pyramid, unit, write
        self._pool = pool
        self._growing: dict[tuple[int, Shape], tuple[Array, int]] = {}

    def take_box(self, box: Box, *, read: Callable[[int, Region], Array]) -> None:
        """Read some shards at once and take them; nothing of it stays when it ends."""
        floor = self._unit.floor
        region = self._pyramid.box_region(floor, box)
        pixels = read(floor, region)
        for index in itertools.product(*box):
            inner = self._pyramid.region(floor, index)
            self.take(floor, index, _part(pixels, inner, of=region))

    def take(self, level: int, index: Shape, pixels: Array) -> None:
        """Write a whole shard, and put its half into the shard above."""
        if level >= self._unit.new:
            self._write(level, index, pixels)
        if level == self._unit.root:
            return
        factors = self._pyramid.factors[level]
        part = self._pool(pixels, factors)
        # Its half is enough: it must not stay while the levels above are made.
        del pixels
        above = tuple(i // factor for i, factor in zip(index, factors, strict=True))
        key = level + 1, above
        if key not in self._growing:
            self._growing[key] = self._begin(*key, part.dtype)
        # Taken out, so that nothing but the call below has a whole shard.
        shard, missing = self._growing.pop(key)
        shard[self._place(index, factors, part.shape)] = part
        if missing > 1:
            self._growing[key] = shard, missing - 1
        else:
            self.take(level + 1, above, shard)

    def _begin(
        self, level: int, index: Shape, dtype: np.dtype[Any]
    ) -> tuple[Array, int]:
        region = self._pyramid.region(level, index)
        box = tuple(range(i, i + 1) for i in index)
        children = math.prod(len(part) for part in self._pyramid.below(level, box))
        # Children fill all of it: zeros would be written for nothing.
        return np.empty([part.stop - part.start for part in region], dtype), children

    def _place(self, index: Shape, factors: Shape, size: Shape) -> Region:
        """Where the half of a shard lies in the shard above."""
        starts = [
            i % factor * (edge // factor)
            for i, factor, edge in zip(
                index, factors, self._pyramid.shard_shape, strict=True
            )
        ]
        return tuple(
            slice(start, start + length)
            for start, length in zip(starts, size, strict=True)
        )


def _part(pixels: Array, inner: Region, *, of: Region) -> Array:
    if inner == of:
        return pixels
    places = (
        slice(part.start - whole.start, part.stop - whole.start)
        for part, whole in zip(inner, of, strict=True)
    )
    return np.ascontiguousarray(pixels[tuple(places)])
