"""Pages of a TIFF that must be decoded: compressed, tiled, of single bits.

Only strips and tiles that touch the region are read, each decoded by tifffile's codecs,
so that memory does not grow with the page. Decoded ones are remembered, up to 64 MiB a
process: who reads a volume block by block touches the same strips again. The other way,
unpacking the whole file to a scratch first, needs the disk twice and makes the first
plane wait for the last.
"""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.plausible import is_plausible, ratio_of
from em_platform.formats.source import Source
from em_platform.formats.tiff_directory import Directory, TiffReader
from em_platform.formats.tiff_pages import PageLayout, layout_of, segments_of
from em_platform.formats.volume import (
    DECODED,
    Bounds,
    FileKey,
    Region,
    bounds_of,
    shape_of,
)
from em_platform.model.volume import VolumeInfo


# Compared by the file: it is a key of the caches below, with thousands of offsets.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodedVolume:
    """A volume of pages that are decoded piece by piece."""

    info: VolumeInfo
    source: Source
    key: FileKey
    layout: PageLayout
    directory_offsets: tuple[int, ...]

    def __eq__(self, other: object) -> bool:
        """Whether both read the same file."""
        return isinstance(other, CodedVolume) and other.key == self.key

    def __hash__(self) -> int:
        """Of the file."""
        return hash(self.key)

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`, in native byte order."""
        bounds = bounds_of(region, self.info.shape)
        found = np.empty(shape_of(bounds), np.dtype(self.info.dtype))
        if found.size:
            for z in range(*bounds[0]):
                self._read_plane(z, bounds, found[z - bounds[0][0]])
        return found

    def _read_plane(self, z: int, bounds: Bounds, found: NDArray[Any]) -> None:
        page = _page(self, self.directory_offsets[z])
        height, width = self.layout.segment_shape
        across = -(-self.layout.width // width)
        (y0, y1), (x0, x1) = bounds[1:]
        for row in range(y0 // height, -(-y1 // height)):
            for column in range(x0 // width, -(-x1 // width)):
                pixels = page.segment(row * across + column)
                top, left = row * height, column * width
                rows = slice(max(y0, top), min(y1, top + pixels.shape[0]))
                columns = slice(max(x0, left), min(x1, left + pixels.shape[1]))
                found[
                    rows.start - y0 : rows.stop - y0,
                    columns.start - x0 : columns.stop - x0,
                ] = pixels[
                    rows.start - top : rows.stop - top,
                    columns.start - left : columns.stop - left,
                ]


@dataclass(frozen=True, eq=False)
class _Page:
    """One page: where its segments are and what decodes them."""

    volume: CodedVolume
    directory: Directory
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]

    def segment(self, index: int) -> NDArray[Any]:
        """The pixels of a strip or tile, cut at the page's edge."""
        key = (*self.volume.key, int(self.offsets[index]))
        pixels = DECODED.get(key)
        if pixels is None:
            pixels = self._decode(index)
            DECODED.put(key, pixels)
        return pixels

    def _decode(self, index: int) -> NDArray[Any]:
        source, layout = self.volume.source, self.volume.layout
        dtype, count = np.dtype(self.volume.info.dtype), int(self.counts[index])
        height, width = layout.segment_shape
        size = height * width * dtype.itemsize
        # 0 bytes are a hole: zeros.
        if count and not is_plausible(count, size, ratio=ratio_of(layout.compression)):
            raise _undecodable(source, f"{count} bytes for {size}")
        content = source.read(int(self.offsets[index]), count)
        across = -(-layout.width // width)
        rows = min(height, layout.height - index // across * height)
        columns = min(width, layout.width - index % across * width)
        if not content:
            # A hole: programs leave strips of zeros out.
            return np.zeros((rows, columns), dtype)
        page = self.directory.page
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels, *_ = page.decode(content, index, jpegtables=page.jpegtables)
        except Exception as error:
            # Codecs raise errors of many kinds.
            raise _undecodable(source, str(error)) from error
        if pixels is None or pixels.size < rows * columns:
            raise _undecodable(source, "too few pixels")
        # From depth, rows, columns, samples, of which the first and last are 1.
        plane = np.asarray(pixels).reshape(-1, pixels.shape[-2])
        return np.ascontiguousarray(plane[:rows, :columns]).astype(dtype, copy=False)


# Bounded: the lists of a page's strips may be long.
@lru_cache(maxsize=128)
def _page(volume: CodedVolume, at: int) -> _Page:
    directory = _reader(volume).directory(at)
    offsets, counts = segments_of(directory, layout_of(directory))
    return _Page(volume, directory, offsets, counts)


@lru_cache(maxsize=8)
def _reader(volume: CodedVolume) -> TiffReader:
    return TiffReader(volume.source)


def _undecodable(source: Source, why: str) -> FormatError:
    return FormatError(
        f"{source.uri}: cannot be decoded ({why}), expected strips or tiles as its "
        "directory says; copy it again, or save it without compression",
        uri=source.uri,
    )
