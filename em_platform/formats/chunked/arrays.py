"""What the metadata of a chunked format say of an image and of its arrays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from em_platform.errors import FormatError
from em_platform.formats.length_units import nm_of, rounded

# Where no source limits the memory: half of what the usual codecs take at once.
_MOST_CHUNK_BYTES = 1 << 30

Zyx = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of a pyramid: where it lies in its group, and in space.

    `axes` are names in the order of storage, empty where nobody says; `origin_nm` is
    the centre of the first voxel.
    """

    path: str
    axes: tuple[str, ...] = ()
    voxel_size_nm: Zyx | None = None
    origin_nm: Zyx = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """The levels of a group, finest first."""

    format: str
    levels: tuple[Level, ...]
    name: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)


_INDEX_BYTES = 16  # of each chunk in the index of a shard (Zarr v3, sharding)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArray:
    """One array as it is stored; all tuples in the order of its own axes.

    `chunks` is what is compressed at once, `objects` what one object in the store
    holds (a shard, else a chunk). `spec` is tensorstore's, without `kvstore`.
    """

    format: str
    spec: Mapping[str, Any]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    objects: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    level: Level | None = None
    """What the array itself says of its place in space."""
    folder: str = ""
    """Where its objects lie below its metadata."""
    offset: tuple[int, ...] = ()
    """The number of the first voxel, where names of objects count from it."""
    sharding: Mapping[str, Any] | None = None
    """How a precomputed volume finds a chunk's shard."""

    @property
    def most_bytes(self) -> int:
        """Of one object as it is packed: of noise, codecs make a little more."""
        pixels = math.prod(self.objects) * np.dtype(self.dtype).itemsize
        chunks = math.prod(self.objects) // max(1, math.prod(self.chunks))
        return 2 * (pixels + chunks * _INDEX_BYTES) + (1 << 20)


def space(
    axes: Sequence[str], values: Sequence[float], units: Sequence[str]
) -> tuple[Zyx | None, Zyx]:
    """Lengths along z, y, x in nm from values along named axes.

    Returns
    -------
    tuple[Zyx | None, Zyx]
        As edges of a voxel, None where a unit is no length, 0 where an axis is absent;
        and as a place, where all numbers are allowed.
    """
    edges: list[float | None] = []
    places: list[float] = []
    for name in "zyx":
        if name not in axes:
            edges.append(0.0)
            places.append(0.0)
            continue
        at = list(axes).index(name)
        if at >= min(len(values), len(units)):
            raise ValueError(f"no number or unit for the axis {name}")
        # An axis that is turned around has a negative scale.
        edges.append(nm_of(abs(float(values[at])), units[at]))
        # By a factor, as places may be 0 or negative, which are no lengths.
        factor = nm_of(1.0, units[at]) or 0.0
        places.append(rounded(float(values[at]) * factor))
    z, y, x = edges
    known = None if z is None or y is None or x is None else (z, y, x)
    return known, (places[0], places[1], places[2])


def plane_or_space(edges: Zyx | None) -> Zyx | None:
    """Edges of a voxel, None where only the absent axes were known."""
    return None if edges is None or not any(edges) else edges


def check_chunks(
    array: StoredArray, *, url: str, memory_limit_mb: float | None = None
) -> None:
    """Refuse chunks that are none, or that would fill the memory.

    One voxel costs the whole chunk that it is in: a chunk may have a quarter of
    `memory_limit_mb`, as it is unpacked and copied beside others.

    Raises
    ------
    FormatError
        An edge is below 1, or a chunk has more bytes.
    """
    for edges in (array.chunks, array.objects):
        if len(edges) != len(array.shape) or min(edges, default=1) < 1:
            raise broken(url, f"chunks of {edges} for a shape of {array.shape}")
    if memory_limit_mb is None:
        most_bytes = _MOST_CHUNK_BYTES
    else:
        most_bytes = int(memory_limit_mb * 2**20) // 4
    chunk_bytes = math.prod(array.chunks) * np.dtype(array.dtype).itemsize
    if chunk_bytes > most_bytes:
        raise FormatError(
            f"chunks: {url} has chunks of {array.chunks} voxels ({chunk_bytes} bytes), "
            f"expected at most {most_bytes}, a quarter of the memory; raise the "
            "source's memory_limit_mb or write it with smaller chunks",
            url=url,
        )


def broken(url: str, found: str) -> FormatError:
    """The error for metadata that do not say what they must."""
    return FormatError(
        f"chunks: the metadata of {url} cannot be used ({found}); fetch them again or "
        "report it to who made them",
        url=url,
    )
