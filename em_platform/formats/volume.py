"""A volume that is read region by region, and the one whose voxels are stored plain.

Plain voxels are read by `pread` at the place of their rows: nothing is mapped, because
a file that shrinks under a memory map kills the process, and no more than the region
and a few MiB are in memory. What has to be decoded is remembered, up to 64 MiB a
process: who reads a compressed volume block by block touches the same strips or planes
again, and decoding costs a hundred times what a copy does.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from em_platform.formats.source import Fill, Source, filling
from em_platform.model.volume import VolumeInfo

Region = tuple[slice, slice, slice]


class Volume(Protocol):
    """Voxels in the order z, y, x; goes to other processes (pickles), holds no file.

    Raises
    ------
    FormatError
        The bytes are not what the header promised; the sentence names the file.
    SourceUnavailable
        A remote volume is not served.
    """

    @property
    def info(self) -> VolumeInfo:
        """What is known of it without its pixels."""
        ...

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`, in native byte order."""
        ...


Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def bounds_of(region: Region, shape: tuple[int, int, int]) -> Bounds:
    """First and end voxel along z, y, x; cut at the volume's edges as numpy does.

    Raises
    ------
    ValueError
        A step other than 1.
    """
    found = []
    for part, length in zip(region, shape, strict=True):
        first, end, step = part.indices(length)
        if step != 1:
            raise ValueError(f"a region of every {step}. voxel cannot be read")
        found.append((first, max(first, end)))
    z, y, x = found
    return z, y, x


def shape_of(bounds: Bounds) -> tuple[int, int, int]:
    """How many voxels along z, y, x."""
    (z0, z1), (y0, y1), (x0, x1) = bounds
    return z1 - z0, y1 - y0, x1 - x0


_CACHE_BYTES = 1 << 26


@dataclass
class Decoded:
    """Arrays by key, the longest unused forgotten first; for many threads."""

    limit: int
    """Bytes of all together."""
    _held: OrderedDict[Hashable, NDArray[Any]] = field(default_factory=OrderedDict)
    _size: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: Hashable) -> NDArray[Any] | None:
        """The array, None where it is forgotten; not to be written to."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Hashable, pixels: NDArray[Any]) -> None:
        """Remember an array, unless it alone is above the limit."""
        with self._lock:
            # Two threads may have decoded the same: it counts once.
            if key not in self._held and pixels.nbytes <= self.limit:
                self._held[key] = pixels
                self._size += pixels.nbytes
            while self._size > self.limit:
                self._size -= self._held.popitem(last=False)[1].nbytes


FileKey = tuple[str, int, int]


def key_of(source: Source) -> FileKey:
    """What tells a file from others, and from itself after it was written anew."""
    changed_ns = 0
    if source.path is not None:
        with suppress(OSError):
            changed_ns = os.stat(source.path).st_mtime_ns
    # Behind a URL no time is known: the first bytes stand for it.
    return source.uri, source.length, changed_ns or hash(source.first)


DECODED = Decoded(_CACHE_BYTES)
"""What this process decoded."""


# Rows are read through in such pieces: memory does not follow the plane.
_SCRATCH_BYTES = 1 << 22
# Rows apart by more than this are cheaper asked for one by one than read through.
_ROW_GAP_BYTES = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainVolume:
    """A volume in one file; plane `z` starts at `offset + z * stride`.

    `plane_offsets` stands in where planes lie anywhere. `stored_axes` are the axes of
    the volume (0 is z) in the order in which the file counts them, slowest first.
    """

    info: VolumeInfo
    source: Source
    stored_dtype: str
    """numpy's name with byte order, such as `>u2`."""
    offset: int
    stride: int
    plane_offsets: tuple[int, ...] | None = None
    stored_axes: tuple[int, int, int] = (0, 1, 2)

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`, in native byte order."""
        wanted = bounds_of(region, self.info.shape)
        first, second, third = (wanted[axis] for axis in self.stored_axes)
        bounds = (first, second, third)
        found = np.empty(shape_of(bounds), np.dtype(self.stored_dtype))
        if found.size:
            with filling(self.source) as fill:
                self._read_planes(bounds, found, fill)
        if not found.dtype.isnative:
            # In place: a second block would double the memory.
            found = found.byteswap(inplace=True).view(found.dtype.newbyteorder("="))
        back = np.argsort(self.stored_axes)
        found = np.ascontiguousarray(found.transpose(tuple(int(a) for a in back)))
        return found.astype(self.info.dtype, copy=False)

    def _read_planes(self, bounds: Bounds, found: NDArray[Any], fill: Fill) -> None:
        (z0, z1), (y0, y1), (x0, x1) = bounds
        height, width = (self.info.shape[axis] for axis in self.stored_axes[1:])
        row_bytes = width * found.itemsize
        whole_rows = x1 - x0 == width
        whole_planes = whole_rows and y1 - y0 == height
        if whole_planes and self.plane_offsets is None:
            if self.stride == height * row_bytes:
                fill(self.offset + z0 * self.stride, found)
                return
        for z in range(z0, z1):
            at = self._plane(z) + y0 * row_bytes
            if whole_rows:
                fill(at, found[z - z0])
            else:
                columns = (x0 * found.itemsize, row_bytes)
                _read_columns(at, found[z - z0], columns, fill, self.source)

    def _plane(self, z: int) -> int:
        if self.plane_offsets is not None:
            return self.plane_offsets[z]
        return self.offset + z * self.stride


def _read_columns(
    at: int,
    found: NDArray[Any],
    columns: tuple[int, int],
    fill: Fill,
    source: Source,
) -> None:
    """Some columns, `(h, w)`, of rows from `at`; `columns` is their start and pitch."""
    start, pitch = columns
    wanted = found.shape[1] * found.itemsize
    # Behind a URL each row would be a request.
    if source.path is not None and pitch - wanted > _ROW_GAP_BYTES:
        for y, row in enumerate(found):
            fill(at + start + y * pitch, row)
        return
    rows = max(1, _SCRATCH_BYTES // pitch)
    for y in range(0, found.shape[0], rows):
        part = found[y : y + rows]
        # Neither before the first nor behind the last wanted byte is anything read.
        scratch = np.empty((part.shape[0] - 1) * pitch + wanted, np.uint8)
        fill(at + start + y * pitch, scratch)
        # No reshape can do it: the last row lacks its rest.
        strided = np.lib.stride_tricks.as_strided(
            scratch, (part.shape[0], wanted), (pitch, 1), writeable=False
        )
        part[...] = np.ascontiguousarray(strided).view(found.dtype)
