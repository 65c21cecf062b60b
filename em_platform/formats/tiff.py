"""TIFF, BigTIFF, ImageJ and OME-TIFF: many pages as a volume.

tifffile reads the directories and decodes; what is decided here is which pages make one
volume and which of their bytes are read. Pages stored plain are read by row straight
off the disk. Of others (compressed, tiled, of single bits) only strips and tiles that
touch the region are read and decoded: in both cases memory is bounded by the region,
however large a page is. Decoded ones are remembered, up to 64 MiB a process: who reads
a volume block by block touches the same strips again. The other way, unpacking the
whole file to a scratch first, needs the disk twice and makes the first plane wait for
the last. ImageJ writes stacks above 4 GB as one page with all planes behind it.
"""

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.header_values import is_plausible, ratio_of
from em_platform.formats.sem_tiff import sem_scale
from em_platform.formats.source import Source
from em_platform.formats.tiff_directory import (
    Directory,
    TiffReader,
    TiffScale,
    cut_short,
    scale_of,
)
from em_platform.formats.tiff_pages import (
    PALETTE,
    WHITE_IS_ZERO,
    PageLayout,
    Pages,
    layout_of,
    main_page,
    pages_of,
    plain_offset,
    segments_of,
)
from em_platform.formats.volume import (
    DECODED,
    Bounds,
    FileKey,
    PlainVolume,
    Region,
    Volume,
    bounds_of,
    key_of,
    shape_of,
)
from em_platform.model.volume import Tag, VolumeInfo


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


_COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    65000: "EER",
    65001: "EER",
    65002: "EER",
}


def open_tiff(source: Source) -> Volume:
    """The pages of a TIFF as planes; only directories are read now.

    Raises
    ------
    FormatError
        The file is cut short or damaged, has colours, several channels or times beside
        its planes, or pages of different sizes.
    """
    first = main_page(source)
    layout = layout_of(first)
    if layout.compression in (65000, 65001, 65002):
        raise FormatError(
            f"{source.uri}: found electron events (EER), expected grey levels; sum "
            "them to frames first",
            uri=source.uri,
        )
    scale, sem = scale_of(first), sem_scale(first)
    pages = _raw_stack(source, first, scale) or pages_of(first)
    if scale.dialect == "OME":
        pages = _first_image(pages, scale)
    _check_axes(source, scale, pages.count)
    info = VolumeInfo(
        uri=source.uri,
        format=_name(first, sem.dialect if sem else scale.dialect),
        shape=(pages.count, layout.height, layout.width),
        dtype=layout.dtype,
        # The microscope's own words before a resolution, which may be a print's.
        voxel_size_nm=(sem and sem.voxel_size_nm) or scale.voxel_size_nm,
        chunk_shape=_chunk(pages),
        size_bytes=source.length,
        tags=_tags(scale, sem, pages),
    )
    if pages.plain_offsets is None and pages.directory_offsets:
        return CodedVolume(
            info=info,
            source=source,
            key=key_of(source),
            layout=layout,
            directory_offsets=pages.directory_offsets,
        )
    return PlainVolume(
        info=info,
        source=source,
        stored_dtype=layout.stored_dtype,
        offset=plain_offset(first, layout) or 0,
        stride=pages.stride or layout.plane_bytes,
        plane_offsets=None if pages.stride else pages.plain_offsets,
    )


def _raw_stack(source: Source, first: Directory, scale: TiffScale) -> Pages | None:
    """A stack of one directory: the planes follow each other behind it.

    So do ImageJ, above 4 GB, and tifffile, where it is asked to.
    """
    if scale.dialect == "OME" or first.following or scale.axes is None:
        return None
    layout = layout_of(first)
    start, count = plain_offset(first, layout), int(np.prod(scale.axes))
    if start is None or count < 2:
        return None
    end = start + count * layout.plane_bytes
    if end > source.length:
        raise cut_short(source, f"{count} images end at {end}")
    return Pages(
        layout=layout,
        count=count,
        directory_offsets=(),
        plain_offsets=None,
        stride=layout.plane_bytes,
    )


def _first_image(pages: Pages, scale: TiffScale) -> Pages:
    """The pages of the first image, where OME tells of several in one file."""
    count = int(np.prod(scale.axes or 1))
    more = pages.count - count
    if count < 1 or more <= 0:
        return pages
    places, plain = pages.directory_offsets, pages.plain_offsets
    return replace(
        pages,
        count=count,
        directory_offsets=places[:count],
        plain_offsets=plain[:count] if plain is not None else None,
        left_out=(*pages.left_out, f"{more} pages of other images"),
    )


def _check_axes(source: Source, scale: TiffScale, count: int) -> None:
    if scale.axes is None:
        return
    channels, planes, times = scale.axes
    if sum(length > 1 for length in scale.axes) > 1 and count == np.prod(scale.axes):
        raise FormatError(
            f"{source.uri}: found {channels} channels, {planes} planes and {times} "
            "points in time, expected planes only; split the channels and times",
            uri=source.uri,
        )


def _name(first: Directory, dialect: str) -> str:
    name = "BigTIFF" if first.file.big else "TIFF"
    return f"{name} ({dialect})" if dialect else name


def _chunk(pages: Pages) -> tuple[int, int, int]:
    """What is read at once without waste: a tile or strip, or rows of a plain page."""
    layout = pages.layout
    if layout.simple and not pages.directory_offsets:
        return 1, layout.height, layout.width
    rows, columns = layout.segment_shape
    return 1, min(rows, layout.height), min(columns, layout.width)


def _tags(scale: TiffScale, sem: TiffScale | None, pages: Pages) -> dict[str, Tag]:
    layout = pages.layout
    tags: dict[str, Tag] = dict(scale.tags) | (sem.tags if sem else {})
    tags["compression"] = _COMPRESSIONS.get(layout.compression, str(layout.compression))
    if layout.photometric == PALETTE:
        tags["palette"] = True
    if layout.photometric == WHITE_IS_ZERO:
        tags["white_is_zero"] = True
    if scale.axes and np.prod(scale.axes) > pages.count:
        # OME spreads an image over files; this one has a part of it.
        tags["planes_stated"] = int(np.prod(scale.axes))
    if pages.left_out:
        tags["left_out"] = pages.left_out[:10]
    if scale.axes and scale.axes[1] != pages.count and pages.count > 1:
        # A series of times or channels alone is read as planes; this says so.
        names = dict(zip(("channels", "planes", "frames"), scale.axes, strict=True))
        tags["planes_are"] = max(names, key=lambda name: names[name])
    return tags
