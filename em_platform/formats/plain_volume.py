"""Voxels that lie in a file as they are: no compression, plane after plane.

A region is read by `pread` at the place of its rows: nothing is mapped, because a file
that shrinks under a memory map kills the process, and no more than the region and a
few MiB are in memory.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.formats.ranged_reads import Fill, filling
from em_platform.formats.region import Bounds, bounds_of, shape_of
from em_platform.formats.source import Source
from em_platform.formats.volume import Region
from em_platform.model.volume import VolumeInfo

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
        strided = np.lib.stride_tricks.as_strided(
            scratch, (part.shape[0], wanted), (pitch, 1), writeable=False
        )
        part[...] = np.ascontiguousarray(strided).view(found.dtype)
