"""How a volume is cut, and what the group of an image states.

Chunks, shards, levels and what is read at once; OME-NGFF 0.5's axes and levels, and our
review. Source: https://ngff.openmicroscopy.org/0.5/
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from em_platform.config import OutputSettings
from em_platform.formats.chunked.zarr import OURS
from em_platform.model import Review
from em_platform.ome_zarr.pyramid import (
    Pyramid,
    Shape,
    Unit,
    first_root,
    later_rounds,
    units_of,
)

BLOCK_BYTES = 128 * 2**20
"""What is read at once of a source whose own chunks are larger than a shard."""

# A round begins with reading what the last one made; a longer one has more to
# do anew after a kill.
_ROUND_LEVELS = 2
_UNITS_WANTED = 2
_ABOUT_EQUAL = math.sqrt(2)  # as far from 1 as from 2: nearer ones are halved together


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeLayout:
    """Shapes of chunk and shard, the pyramid, and the units of work in rounds.

    `spans` says along which axes a unit of the first round is read at once.
    """

    chunk_shape: Shape
    pyramid: Pyramid
    rounds: tuple[tuple[Unit, ...], ...]
    spans: tuple[bool, ...]


def plan_volume(
    shape: Shape,
    *,
    itemsize: int,
    settings: OutputSettings,
    voxel_size_nm: Sequence[float] | None = None,
    source_chunk: Shape | None = None,
) -> VolumeLayout:
    """How a volume is cut.

    Parameters
    ----------
    itemsize
        Bytes of a voxel.
    voxel_size_nm
        Decides which axes are halved first; without it all are.
    source_chunk
        What the source reads at once without waste.
    """
    chunk = _chunk_shape(shape, itemsize=itemsize, settings=settings)
    shard = tuple(
        # Whole chunks, as Zarr's sharding codec demands.
        min(max(1, settings.shard_px // edge), -(-length // edge)) * edge
        for edge, length in zip(chunk, shape, strict=True)
    )
    pyramid = _plan_levels(
        shape, chunk=chunk, shard=shard, levels=settings.levels, edges=voxel_size_nm
    )
    # 8 shards of level 0 and the one above: little to do anew after a kill.
    root = first_root(pyramid, highest=1, units=_UNITS_WANTED)
    count, spans = _reading(pyramid, root, chunk=source_chunk, itemsize=itemsize)
    rounds = [
        units_of(pyramid, floor=0, root=root, count=count),
        *later_rounds(pyramid, floor=root, levels=_ROUND_LEVELS),
    ]
    return VolumeLayout(
        chunk_shape=chunk,
        pyramid=pyramid,
        rounds=tuple(tuple(units) for units in rounds),
        spans=spans,
    )


def _chunk_shape(shape: Shape, *, itemsize: int, settings: OutputSettings) -> Shape:
    """An edge is even, so that a shard has two equal halves, or the whole axis."""
    edge = settings.chunk_px
    if settings.chunk_mb is not None:
        # The cube root of 64³ comes out as 63.99999999999999.
        edge = int((settings.chunk_mb * 2**20 / itemsize) ** (1 / len(shape)) + 1e-6)
    edge = max(8, edge // 2 * 2)
    return tuple(min(edge, length) for length in shape)


def _plan_levels(
    shape: Shape,
    *,
    chunk: Shape,
    shard: Shape,
    levels: int,
    edges: Sequence[float] | None,
) -> Pyramid:
    shapes, factors = [shape], []
    known = [edge for edge in edges or () if edge > 0]
    # An axis whose length nobody knows is as fine as the finest.
    sizes = [edge if edge > 0 else min(known) for edge in edges or ()] if known else []
    sizes = sizes or [1.0] * len(shape)
    while max(shapes[-1]) > 1 and (
        len(shapes) < levels
        if levels
        else any(n > edge for n, edge in zip(shapes[-1], chunk, strict=True))
    ):
        step = _halved(shapes[-1], sizes)
        factors.append(step)
        sizes = [size * factor for size, factor in zip(sizes, step, strict=True)]
        shapes.append(
            tuple(-(-n // factor) for n, factor in zip(shapes[-1], step, strict=True))
        )
    return Pyramid(shapes=tuple(shapes), shard_shape=shard, factors=tuple(factors))


def _halved(shape: Shape, sizes: Sequence[float]) -> Shape:
    """2 for each axis that is as fine as the finest one, or nearer to it than to 2."""
    finest = min(size for size, n in zip(sizes, shape, strict=True) if n > 1)
    return tuple(
        2 if n > 1 and size < _ABOUT_EQUAL * finest else 1
        for size, n in zip(sizes, shape, strict=True)
    )


def _reading(
    pyramid: Pyramid, root: int, *, chunk: Shape | None, itemsize: int
) -> tuple[Shape, tuple[bool, ...]]:
    """How many shards of `root` a unit has, and along which axes it is read at once.

    A source that gives whole rows or planes would give them again for each shard: the
    block that is read grows along its rows, then its planes, up to `BLOCK_BYTES`.
    """
    axes = len(pyramid.shard_shape)
    count, spans = [1] * axes, [False] * axes
    scale, grid = pyramid.scale(root), pyramid.grid(root)
    block = math.prod(map(min, pyramid.shard_shape, pyramid.shapes[0])) * itemsize
    for axis in reversed(range(axes) if chunk else ()):
        shard = pyramid.shard_shape[axis]
        if chunk is None or chunk[axis] <= shard or pyramid.grid(0)[axis] == 1:
            continue
        step = min(scale[axis], pyramid.grid(0)[axis])
        fitting = BLOCK_BYTES // (block * step)
        if not fitting:
            break
        wanted = -(-chunk[axis] // (shard * scale[axis]))
        count[axis] = min(fitting, wanted, grid[axis])
        spans[axis] = True
        block *= count[axis] * step
    return tuple(count), tuple(spans)


def group_attributes(
    pyramid: Pyramid,
    name: str,
    *,
    edges: Sequence[float] | None,
    kind: str = "area",
    origin: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The attributes of the group.

    Parameters
    ----------
    edges
        Of a pixel of level 0 along each axis in nm; an axis with 0, or all without it,
        has no unit.
    kind
        How a level is made of the one below.
    origin
        The place of the first pixel's centre in nm.
    """
    axes = AXES[-len(pyramid.shard_shape) :]
    known = edges or (0.0,) * len(axes)
    # OME-NGFF demands a scale also of axes whose length nobody knows.
    sizes = [edge or 1.0 for edge in known]
    image = {
        "name": name,
        "type": kind,
        "axes": [
            {"name": axis, "type": "space"} | ({"unit": "nanometer"} if edge else {})
            for axis, edge in zip(axes, known, strict=True)
        ],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": _transformations(
                    pyramid, level, sizes=sizes, origin=origin or (0.0,) * len(axes)
                ),
            }
            for level in range(len(pyramid.shapes))
        ],
    }
    return {"ome": {"version": "0.5", "multiscales": [image]}}


def _transformations(
    pyramid: Pyramid, level: int, *, sizes: Sequence[float], origin: Sequence[float]
) -> list[dict[str, Any]]:
    scale = pyramid.scale(level)
    return [
        {
            "type": "scale",
            "scale": [size * step for size, step in zip(sizes, scale, strict=True)],
        },
        {
            "type": "translation",
            # A coordinate is that of a pixel's centre, and the first pixel of a level
            # has its centre amid those of level 0 that it covers.
            "translation": [
                start + size * (step - 1) / 2
                for start, size, step in zip(origin, sizes, scale, strict=True)
            ],
        },
    ]


AXES = "tczyx"
"""Names of axes in the order of storage; an image has the last ones."""


def mosaic_attributes(origin_px: Sequence[int], review: Review) -> dict[str, Any]:
    """What the group of a mosaic says beside OME-NGFF: its place and its review."""
    ours = {"origin_px": list(origin_px), "review": review.model_dump(mode="json")}
    return {OURS: ours}
