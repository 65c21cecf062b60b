"""How many chunks of an array its store holds.

A chunk that is not there is legal: readers see the fill value. It is also what an
upload that stopped half-way looks like, so it is counted.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from em_platform.formats.chunked.listing import Found, asked, can_list, listed
from em_platform.formats.chunked.names import ObjectNames, names_of, shard_names
from em_platform.formats.chunked.open import Located, checked_crop, locate
from em_platform.formats.chunked.volume import Crop, select

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


def count_chunks(
    url: str,
    *,
    format: str | None = None,
    level: int | str = 0,
    crop: Crop | None = None,
    options: Mapping[str, Any] | None = None,
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
    found: Located, crop: Crop | None, options: Mapping[str, Any]
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
        self._size_bytes = 0
        array = found.array
        described = (
            f"{array.shape} {array.chunks} {array.dtype} {sorted(array.tags.items())}"
        )
        self._sum = _number(described)

    def add(self, each: Found) -> None:
        """One object is there."""
        self._size_bytes += each.size_bytes
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
        )

    def unknown(self, expected: int | None) -> ChunkCount:
        """The count of a region that nobody could look at."""
        return ChunkCount(expected=expected, digest=self._digest())

    def _digest(self) -> str:
        return hashlib.sha256(str(self._sum).encode()).hexdigest()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
