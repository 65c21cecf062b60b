"""How many chunks of an array its store holds, and under which names it keeps them.

A chunk that is not there is legal: readers see the fill value. It is also what an
upload that stopped half-way looks like, so it is counted.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.formats.chunked import Located, checked_crop, locate
from em_platform.formats.chunked.arrays import Crop, StoredArray, select
from em_platform.formats.chunked.digests import MD5_ETAG
from em_platform.formats.chunked.listing import Found, asked, can_list, listed
from em_platform.storage.layout import StorageOptions

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


_MOST_NAMED = 100
_MOST_LISTED = 20_000_000
"""Objects of a region; of more, nobody waits for the list."""
_MOST_ASKED = 20_000
"""Objects that are asked for one by one where nothing is listed."""
# Names on a page of a bucket's listing, see `listing`.
_PAGE = 1000
_BESIDE = 4
"""So many requests beside each other take about as long as one page after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCount:
    """What was found of the objects (chunks, or shards of them) of a region.

    `missing` and `size_bytes` are None where nobody could count. `digest` names
    what was found: it changes when names, sizes or ETags do, or the metadata.
    """

    expected: int | None
    missing: int | None = None
    missing_names: tuple[str, ...] = ()
    size_bytes: int | None = None
    digest: str = ""
    with_md5: int = 0
    """Objects whose ETag is an MD5, so that other bytes are noticed when read."""


def count_chunks(
    url: str,
    *,
    format: str | None = None,
    level: int | str = 0,
    crop: Crop | None = None,
    options: StorageOptions | None = None,
) -> ChunkCount:
    """Compare the objects that a region needs with those that are there.

    A folder is walked and a bucket listed; on a plain web server up to 20000 objects
    are asked for one by one.

    Raises
    ------
    FormatError
        There is no such array, or the crop is not inside.
    SourceUnavailable, SourceRefused
        The server does not answer, or not to us.
    """
    found = locate(url, format=format, level=level, options=options)
    region = _stored_region(found, crop, options or {})
    total = _Sum(found)
    names = names_of(found.array, region)
    if names is None:
        return _count_shards(found, region, total)
    if names.expected > _MOST_LISTED:
        return total.unknown(names.expected)
    prefixes = _prefixes(found, names)
    if not prefixes:
        if names.expected > _MOST_ASKED:
            return total.unknown(names.expected)
        return _count_asked(found, names.all(), names.expected, total)
    return _count_listed(found, names, prefixes=prefixes, total=total)


def _count_listed(
    found: Located, names: ObjectNames, *, prefixes: Iterable[str], total: "_Sum"
) -> ChunkCount:
    present = np.zeros([end - first for first, end in names.ranges], np.bool_)
    for each in listed(found.store, prefixes):
        place = names.place(each.name)
        if place is None:
            continue
        cell = tuple(
            n - first for n, (first, _) in zip(place, names.ranges, strict=True)
        )
        # A name that is listed twice counts once.
        if not present[cell]:
            present[cell] = True
            total.add(each)
    missing = int(present.size - np.count_nonzero(present))
    return total.counted(
        names.expected, missing=missing, names=names.absent(present, _MOST_NAMED)
    )


def _count_asked(
    found: Located, names: Iterable[str], expected: int, total: "_Sum"
) -> ChunkCount:
    wanted = list(names)
    missing = []
    for name, each in zip(wanted, asked(found.store, wanted), strict=True):
        if each is None:
            missing.append(name)
        else:
            total.add(each)
    return total.counted(
        expected, missing=len(missing), names=tuple(missing[:_MOST_NAMED])
    )


def _count_shards(
    found: Located, region: tuple[tuple[int, int], ...], total: "_Sum"
) -> ChunkCount:
    cells = 1
    for (first, end), edge in zip(region, found.array.chunks, strict=True):
        cells *= -(-end // edge) - first // edge
    # The numbers of all chunks are in memory at once.
    if cells > _MOST_LISTED:
        return total.unknown(None)
    shards = shard_names(found.array, region)
    if shards is None:
        return total.unknown(None)
    if not can_list(found.store):
        if len(shards) > _MOST_ASKED:
            return total.unknown(len(shards))
        return _count_asked(found, shards, len(shards), total)
    there = set()
    wanted = set(shards)
    for each in listed(found.store, (f"{found.array.folder}/",)):
        if each.name in wanted and each.name not in there:
            there.add(each.name)
            total.add(each)
    absent = tuple(name for name in shards if name not in there)
    return total.counted(len(shards), missing=len(absent), names=absent[:_MOST_NAMED])


def _prefixes(found: Located, names: ObjectNames) -> tuple[str, ...]:
    """What is listed, in the fewest requests; nothing where HEADs are fewer."""
    if not can_list(found.store):
        return ()
    parts, whole = names.prefixes(), (names.head,)
    # Of a folder no pages are counted: walking it costs no requests.
    if not found.store.url.startswith("s3://"):
        return parts
    array = found.array
    grid = [-(-n // edge) for n, edge in zip(array.shape, array.objects, strict=True)]
    pages = -(-math.prod(grid) // _PAGE)
    of_parts = len(parts) * -(-math.prod(grid[1:]) // _PAGE)
    if names.expected < _BESIDE * min(pages, of_parts):
        return ()
    return parts if parts != whole and of_parts <= _BESIDE * pages else whole


def _stored_region(
    found: Located, crop: Crop | None, options: StorageOptions
) -> tuple[tuple[int, int], ...]:
    """First and end voxel along each stored axis."""
    stored = found.array.shape
    selection = select(found.axes, stored, url=found.store.url, options=options)
    whole = selection.zyx(stored)
    corner, shape = checked_crop(crop, whole, url=found.store.url)
    region = [(0, length) for length in stored]
    for axis, place in selection.fixed:
        region[axis] = (place, place + 1)
    for axis, first, count in zip(selection.order, corner, shape, strict=True):
        if axis >= 0:
            region[axis] = (first, first + count)
    return tuple(region)


class _Sum:
    """Adds up what is found; its digest does not depend on the order."""

    def __init__(self, found: Located) -> None:
        self._size_bytes = self._with_md5 = 0
        self._is_bucket = found.store.url.startswith("s3://")
        array = found.array
        described = (
            f"{array.shape} {array.chunks} {array.dtype} {sorted(array.tags.items())}"
        )
        self._sum = _number(described)

    def add(self, each: Found) -> None:
        """One object is there."""
        self._size_bytes += each.size_bytes
        self._with_md5 += self._is_bucket and bool(MD5_ETAG.fullmatch(each.etag))
        self._sum += _number(f"{each.name}\0{each.size_bytes}\0{each.etag}")

    def counted(
        self, expected: int, *, missing: int, names: tuple[str, ...]
    ) -> ChunkCount:
        """The count of a region that was looked at whole."""
        return ChunkCount(
            expected=expected,
            missing=missing,
            missing_names=names,
            size_bytes=self._size_bytes,
            digest=self._digest(),
            with_md5=self._with_md5,
        )

    def unknown(self, expected: int | None) -> ChunkCount:
        """The count of a region that nobody could look at."""
        return ChunkCount(expected=expected, digest=self._digest())

    def _digest(self) -> str:
        return hashlib.sha256(str(self._sum).encode()).hexdigest()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
