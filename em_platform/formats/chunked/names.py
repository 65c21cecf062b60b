"""Under which names a stored array keeps its chunks or shards."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.formats.chunked.arrays import StoredArray

Ranges = tuple[tuple[int, int], ...]
"""First and end number of an object along each stored axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectNames:
    """The objects of a region of an array, each one cell of a grid.

    Names are relative to the array's metadata; `head` is in front of all.
    """

    ranges: Ranges
    head: str = ""
    separator: str = "/"
    edges: tuple[int, ...] | None = None
    """Of a precomputed chunk: its name tells voxels and not numbers."""
    shape: tuple[int, ...] = ()
    offset: tuple[int, ...] = ()

    @property
    def expected(self) -> int:
        """How many objects the region has."""
        return math.prod(end - first for first, end in self.ranges)

    def prefixes(self) -> tuple[str, ...]:
        """What the names of all objects of the region begin with: few, disjoint."""
        first, end = self.ranges[0]
        if self.edges is None and self.separator == "/" and len(self.ranges) > 1:
            return tuple(f"{self.head}{number}/" for number in range(first, end))
        return (self.head,)

    def name(self, place: tuple[int, ...]) -> str:
        """The name of the object at a place in the grid."""
        if self.edges is None:
            return self.head + self.separator.join(map(str, place))
        parts = []
        for number, edge, length, start in zip(
            place, self.edges, self.shape, self.offset, strict=True
        ):
            first, end = number * edge, min((number + 1) * edge, length)
            parts.append(f"{first + start}-{end + start}")
        return self.head + "_".join(parts)

    def place(self, name: str) -> tuple[int, ...] | None:
        """The place in the grid of that name, None where it is not of the region."""
        if not name.startswith(self.head):
            return None
        rest = name[len(self.head) :]
        try:
            if self.edges is None:
                found = tuple(int(part) for part in rest.split(self.separator))
            else:
                firsts = (int(part.partition("-")[0]) for part in rest.split("_"))
                found = tuple(
                    (first - start) // edge
                    for first, start, edge in zip(
                        firsts, self.offset, self.edges, strict=True
                    )
                )
        except ValueError:
            return None
        # int() takes more than names allow, such as 01 or +1.
        if len(found) != len(self.ranges) or self.name(found) != name:
            return None
        inside = all(
            first <= number < end
            for number, (first, end) in zip(found, self.ranges, strict=True)
        )
        return found if inside else None

    def all(self) -> Iterator[str]:
        """The names of all objects of the region."""
        spans = (range(first, end) for first, end in self.ranges)
        return (self.name(place) for place in product(*spans))

    def absent(self, present: NDArray[np.bool_], most: int) -> tuple[str, ...]:
        """Names of the first cells that are False in a grid of the region."""
        corner = [first for first, _ in self.ranges]
        places = islice(zip(*np.nonzero(~present), strict=True), most)
        return tuple(
            self.name(tuple(int(n) + c for n, c in zip(place, corner, strict=True)))
            for place in places
        )


def names_of(
    array: StoredArray, region: tuple[tuple[int, int], ...]
) -> ObjectNames | None:
    """The objects of a region, which is given in voxels along the stored axes.

    None for the shards of a precomputed volume, see `shard_names`.
    """
    ranges = tuple(
        (first // edge, -(-end // edge))
        for (first, end), edge in zip(region, array.objects, strict=True)
    )
    driver = array.spec["driver"]
    if driver == "neuroglancer_precomputed":
        if array.sharding:
            return None
        return ObjectNames(
            # A chunk holds all channels, the fourth axis.
            ranges=ranges[:3],
            head=f"{array.folder}/",
            edges=array.objects[:3],
            shape=array.shape[:3],
            offset=array.offset,
        )
    separator = str(array.tags.get("separator", "/"))
    # Zarr v3 has a c in front, but for keys as in v2.
    head = f"c{separator}" if array.tags.get("key") == "default" else ""
    return ObjectNames(ranges=ranges, head=head, separator=separator)


def shard_names(
    array: StoredArray, region: tuple[tuple[int, int], ...]
) -> tuple[str, ...] | None:
    """The shards that hold a region of a precomputed volume.

    A chunk's number is the compressed Morton code of its place, and its upper bits name
    the shard, see neuroglancer's sharded format; None where the number is hashed.

    Source: https://github.com/google/neuroglancer, `precomputed/sharded.md`.
    """
    sharding = array.sharding
    if sharding is None or sharding.get("hash") != "identity":
        return None
    grid = [
        -(-length // edge)
        for length, edge in zip(array.shape[:3], array.chunks[:3], strict=True)
    ]
    spans = [
        np.arange(first // edge, -(-end // edge), dtype=np.uint64)
        for (first, end), edge in zip(region[:3], array.chunks[:3], strict=True)
    ]
    codes = _morton(spans, grid) >> np.uint64(sharding.get("preshift_bits", 0))
    bits = int(sharding["shard_bits"])
    shards = codes >> np.uint64(sharding["minishard_bits"])
    shards = shards & np.uint64((1 << bits) - 1)
    # Names have as many hexadecimal digits as `shard_bits` need (sharded.md).
    digits = -(-bits // 4)
    return tuple(
        f"{array.folder}/{int(shard):0{digits}x}.shard" for shard in np.unique(shards)
    )


def _morton(spans: list[NDArray[np.uint64]], grid: list[int]) -> NDArray[np.uint64]:
    """Codes of all places in x, y, z; an axis gives the bits that its numbers need."""
    parts = [np.zeros_like(span) for span in spans]
    at = 0
    for bit in range(max(int(n - 1).bit_length() for n in grid)):
        for axis, length in enumerate(grid):
            if (1 << bit) < length:
                value = (spans[axis] >> np.uint64(bit)) & np.uint64(1)
                parts[axis] |= value << np.uint64(at)
                at += 1
    x, y, z = np.meshgrid(*parts, indexing="ij", sparse=True)
    codes: NDArray[Any] = x | y | z
    return codes.ravel()
