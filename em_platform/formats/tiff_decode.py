"""Pages of a TIFF that must be decoded: compressed, tiled, of single bits.

Only strips and tiles that touch the region are read, each decoded by tifffile's codecs,
so that memory does not grow with the page. Decoded ones are remembered, up to 64 MiB a
process: who reads a volume block by block touches the same strips again. The other way,
unpacking the whole file to a scratch first, needs the disk twice and makes the first
plane wait for the last.
"""

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.source import Source
from em_platform.formats.tiff_directory import Window, read_directory
from em_platform.formats.tiff_pages import PageLayout, layout_of, segments_of
from em_platform.formats.volume import (
    DECODED,
    Bounds,
    FileKey,
    Region,
    bounds_of,
    is_plausible,
    shape_of,
)
from em_platform.model.volume import VolumeInfo


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodedVolume:
    """A volume of pages that are decoded piece by piece."""

    info: VolumeInfo
    source: Source
    key: FileKey
    layout: PageLayout
    order: str
    big: bool
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
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    tables: bytes | None
    decode: Any

    def segment(self, index: int) -> NDArray[Any]:
        """The pixels of a strip or tile, cut at the page's edge."""
        key = (*self.volume.key, int(self.offsets[index]))
        pixels = DECODED.get(key)
        if pixels is None:
            pixels = self._decode(index)
            DECODED.put(key, pixels)
        return pixels

    def _decode(self, index: int) -> NDArray[Any]:
        volume, count = self.volume, int(self.counts[index])
        height, width = volume.layout.segment_shape
        dtype = np.dtype(volume.info.dtype)
        size = height * width * dtype.itemsize
        if not is_plausible(count, size):
            raise _undecodable(volume.source, f"{count} bytes for {size}")
        content = volume.source.read(int(self.offsets[index]), count)
        rows = min(height, volume.layout.height - index // self._across() * height)
        columns = min(width, volume.layout.width - index % self._across() * width)
        if not content:
            # A hole: programs leave strips of zeros out.
            return np.zeros((rows, columns), dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels, *_ = self.decode(content, index, jpegtables=self.tables)
        except Exception as error:
            raise _undecodable(volume.source, str(error)) from error
        if pixels is None or pixels.size < rows * columns:
            raise _undecodable(volume.source, "too few pixels")
        plane = np.asarray(pixels).reshape(-1, pixels.shape[-2])
        return np.ascontiguousarray(plane[:rows, :columns]).astype(dtype, copy=False)

    def _across(self) -> int:
        layout = self.volume.layout
        return -(-layout.width // layout.segment_shape[1])


@lru_cache(maxsize=128)
def _page(volume: CodedVolume, at: int) -> _Page:
    directory = read_directory(
        Window(volume.source), at, order=volume.order, big=volume.big
    )
    offsets, counts = segments_of(directory, layout_of(directory))
    return _Page(
        volume=volume,
        offsets=offsets,
        counts=counts,
        tables=directory.content(347) or None,
        decode=_decoder(volume),
    )


@lru_cache(maxsize=8)
def _decoder(volume: CodedVolume) -> Any:
    """The function of tifffile that decodes a segment of pages like the first."""
    import tifffile

    file = io.BufferedReader(_SourceFile(volume.source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with tifffile.TiffFile(file) as tiff:
                return tiff.pages.first.decode
    except Exception as error:
        raise _undecodable(volume.source, str(error)) from error


class _SourceFile(io.RawIOBase):
    """A source as an open file, for tifffile to read its tags."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        start = {0: 0, 1: self._at, 2: self._source.length}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        content = self._source.read(self._at, len(buffer))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _undecodable(source: Source, why: str) -> FormatError:
    return FormatError(
        f"{source.uri}: cannot be decoded ({why}), expected strips or tiles as its "
        "directory says; copy it again, or save it without compression",
        uri=source.uri,
    )
