"""Boxes of voxels and the blocks that they touch; all is z, y, x."""

from collections.abc import Iterator

import numpy as np

from em_platform.ingest.dvid_instance import Box, Three


def aligned(box: Box, block: Three) -> Box:
    """The smallest box of whole blocks around a box."""
    corner, shape = box
    low = [c // edge * edge for c, edge in zip(corner, block, strict=True)]
    high = [
        -(-(c + n) // edge) * edge
        for c, n, edge in zip(corner, shape, block, strict=True)
    ]
    sizes = [b - a for a, b in zip(low, high, strict=True)]
    return (low[0], low[1], low[2]), (sizes[0], sizes[1], sizes[2])


def blocks_of(box: Box, block: Three) -> Iterator[Three]:
    """The places (z, y, x, in blocks) of a box of whole blocks, x fastest."""
    ranges = [
        range(c // edge, (c + n) // edge)
        for c, n, edge in zip(box[0], box[1], block, strict=True)
    ]
    return ((z, y, x) for z in ranges[0] for y in ranges[1] for x in ranges[2])


def parts(box: Box, *, block: Three, most_voxels: int) -> Iterator[Box]:
    """The box in parts of at most `most_voxels`, halved at the edges of blocks.

    Only what is larger within one block is cut within it.
    """
    corner, shape = box
    if shape[0] * shape[1] * shape[2] <= most_voxels:
        yield box
        return
    axis, cut = _cut(corner, shape, block)
    first, rest, after = list(shape), list(shape), list(corner)
    first[axis] = cut - corner[axis]
    rest[axis] -= first[axis]
    after[axis] = cut
    for half in ((corner, tuple(first)), (tuple(after), tuple(rest))):
        yield from parts(half, block=block, most_voxels=most_voxels)  # type: ignore[arg-type]


def _cut(corner: Three, shape: Three, block: Three) -> tuple[int, int]:
    """The axis and the coordinate at which to halve a box."""
    for axis, (c, n, edge) in enumerate(zip(corner, shape, block, strict=True)):
        middle = round((c + n / 2) / edge) * edge
        if c < middle < c + n:
            return axis, middle
        # A block's edge may lie within, but not near the middle.
        nearest = -(-(c + 1) // edge) * edge
        if nearest < c + n:
            return axis, nearest
    axis = int(np.argmax(shape))
    return axis, corner[axis] + shape[axis] // 2
