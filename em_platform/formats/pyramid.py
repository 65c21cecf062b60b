"""One pass over a pyramid: each shard of each level is made once, depth first.

A shard of level k + 1 covers two shards of level k along each axis, so a pyramid is a
tree whose leaves are the shards of level 0. Walked depth first, a branch holds one
shard per level and nothing else: memory follows the depth of the tree and not the size
of the image. The tree is cut into units of work that share no shard; the units of one
round end at its root level, from which the next round goes on.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.imaging.resample import halve

Shape = tuple[int, ...]
Region = tuple[slice, ...]
Array = NDArray[np.integer[Any]]

_ROUND_LEVELS = 2
_UNITS_WANTED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pyramid:
    """The sizes of all levels, and the edge of a shard, the same on every level."""

    shapes: tuple[Shape, ...]
    shard_px: int

    @property
    def top(self) -> int:
        """The number of the smallest level."""
        return len(self.shapes) - 1

    def grid(self, level: int) -> Shape:
        """How many shards a level has along each axis."""
        return tuple(-(-length // self.shard_px) for length in self.shapes[level])

    def region(self, level: int, index: Shape) -> Region:
        """The pixels of one shard, cut at the edge of the image."""
        return tuple(
            slice(i * self.shard_px, min((i + 1) * self.shard_px, length))
            for i, length in zip(index, self.shapes[level], strict=True)
        )

    def children(self, level: int, index: Shape) -> Iterator[Shape]:
        """The shards of the level below from which a shard is made."""
        pairs = [
            range(2 * i, min(2 * i + 2, count))
            for i, count in zip(index, self.grid(level - 1), strict=True)
        ]
        return itertools.product(*pairs)


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """One subtree: from the shards of level `floor` up to one shard of level `root`."""

    floor: int
    root: int
    index: Shape

    @property
    def name(self) -> str:
        """A name that is unique in its pyramid and safe in a path."""
        return "-".join(str(part) for part in (self.floor, self.root, *self.index))


def plan_pyramid(shape: Shape, *, shard_px: int, levels: int) -> Pyramid:
    """The sizes of `levels` levels, each half of the one below, rounded up."""
    shapes = [shape]
    for _ in range(levels - 1):
        shapes.append(tuple(-(-length // 2) for length in shapes[-1]))
    return Pyramid(shapes=tuple(shapes), shard_px=shard_px)


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
    floor, root = 0, _first_root(pyramid)
    rounds = [_units(pyramid, floor=floor, root=root)]
    while root < pyramid.top:
        floor, root = root, min(pyramid.top, root + _ROUND_LEVELS + 1)
        rounds.append(_units(pyramid, floor=floor, root=root))
    return rounds


def _first_root(pyramid: Pyramid) -> int:
    """As high as leaves enough units to share among workers."""
    for level in range(min(_ROUND_LEVELS, pyramid.top), 0, -1):
        if np.prod(pyramid.grid(level)) >= _UNITS_WANTED:
            return level
    return pyramid.top if np.prod(pyramid.grid(0)) < _UNITS_WANTED else 0


def _units(pyramid: Pyramid, *, floor: int, root: int) -> list[Unit]:
    ranges = [range(count) for count in pyramid.grid(root)]
    return [Unit(floor, root, index) for index in itertools.product(*ranges)]


def build(
    pyramid: Pyramid,
    unit: Unit,
    *,
    read: Callable[[int, Region], Array],
    write: Callable[[int, Shape, Array], None],
) -> None:
    """Make all shards of one unit.

    Parameters
    ----------
    read
        Gives the pixels of a region of level `unit.floor`.
    write
        Takes a shard: level, index and pixels. Called once for each shard above
        `unit.floor`, and for those of level 0.
    """

    def shard(level: int, index: Shape) -> Array:
        region = pyramid.region(level, index)
        if level == unit.floor:
            pixels = read(level, region)
        else:
            pixels = _from_children(pyramid, level, index, shard)
        if level > unit.floor or level == 0:
            write(level, index, pixels)
        return pixels

    shard(unit.root, unit.index)


def _from_children(
    pyramid: Pyramid,
    level: int,
    index: Shape,
    shard: Callable[[int, Shape], Array],
) -> Array:
    whole: Array | None = None
    corner = [part.start for part in pyramid.region(level, index)]
    size = [part.stop - part.start for part in pyramid.region(level, index)]
    half_px = pyramid.shard_px // 2
    for child in pyramid.children(level, index):
        part = halve(shard(level - 1, child))
        whole = np.empty(size, part.dtype) if whole is None else whole
        starts = [i * half_px - start for i, start in zip(child, corner, strict=True)]
        whole[
            tuple(
                slice(start, start + length)
                for start, length in zip(starts, part.shape, strict=True)
            )
        ] = part
    if whole is None:
        raise AssertionError(f"shard {index} of level {level} has no children")
    return whole
