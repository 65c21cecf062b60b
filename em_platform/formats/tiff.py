"""TIFF, BigTIFF, ImageJ and OME-TIFF: one image, or many pages as a volume.

tifffile reads the directories and decodes; what is decided here is which pages make one
volume and which of their bytes are read. Pages stored plain are read by row straight
off the disk, others piece by piece (`formats.tiff_decode`): in both cases memory is
bounded by the region, however large a page is. ImageJ writes stacks above 4 GB as one
page with all planes behind it.
"""

import io
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.plausible import check_image, ratio_of
from em_platform.formats.sem_tiff import OLYMPUS_TAG, SemScale, sem_scale
from em_platform.formats.source import Source
from em_platform.formats.tiff_decode import CodedVolume
from em_platform.formats.tiff_directory import (
    Directory,
    TiffReader,
    cut_short,
    is_tiff,
)
from em_platform.formats.tiff_pages import Pages, layout_of, pages_of, plain_offset
from em_platform.formats.tiff_scale import TiffScale, scale_of
from em_platform.formats.volume import FileKey, PlainVolume, Volume, key_of
from em_platform.model import Box
from em_platform.model.volume import Tag, VolumeInfo
from em_platform.storage import atomic

__all__ = [
    "encode_tiff",
    "is_tiff",
    "open_tiff",
    "read_tiff",
    "read_tiff_header",
    "write_tiff",
]

_WHITE_IS_ZERO, _PALETTE = 0, 3
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffHeader:
    """Size and type of the first image of a TIFF."""

    height_px: int
    width_px: int
    samples: int
    dtype: str
    """numpy's name with byte order, such as `<u2`."""
    offset: int | None
    """Where the rows begin, when they are plain and one after the other."""
    coded: CodedVolume | None = None
    """What decodes it, when they are not."""


# A stitch reads each tile's header and four strips of it: its directory is parsed once.
_HEADERS: dict[FileKey, TiffHeader] = {}
_MOST_HEADERS = 4096


def read_tiff_header(source: Source) -> TiffHeader:
    """Size, type and place of the first image.

    Raises
    ------
    FormatError
        Not a TIFF, or cut short: pixels are promised behind the file's end, or more
        of them than the file can hold.
    """
    key = key_of(source)
    # Without a lock: at worst two threads read one header twice.
    found = _HEADERS.get(key)
    if found is None:
        if len(_HEADERS) >= _MOST_HEADERS:
            _HEADERS.clear()
        found = _HEADERS[key] = _read_header(source, key)
    return found


def _read_header(source: Source, key: FileKey) -> TiffHeader:
    first = next(TiffReader(source).directories(), None)
    if first is None:
        raise FormatError(f"{source.uri}: found no image in this TIFF; save it again")
    samples, bits = first.number(277, 1), first.number(258, 1)
    if samples != 1 or bits == 1:
        # Enough for the sentence with which the caller refuses it.
        name = "1-bit" if bits == 1 else f"u{bits // 8}"
        return TiffHeader(
            height_px=first.number(257),
            width_px=first.number(256),
            samples=samples,
            dtype=f"{first.file.order}{name}",
            offset=None,
        )
    layout = layout_of(first)
    offset, coded = plain_offset(first, layout), None
    if offset is None:
        check_image(
            source.uri,
            (layout.height, layout.width),
            pixel_bytes=np.dtype(layout.stored_dtype).itemsize,
            file_bytes=source.length,
            ratio=ratio_of(layout.compression),
        )
        info = VolumeInfo(
            uri=source.uri,
            format="TIFF",
            shape=(1, layout.height, layout.width),
            dtype=_dtype_name(layout.stored_dtype),
        )
        coded = CodedVolume(
            info=info,
            source=source,
            key=key,
            layout=layout,
            directory_offsets=(first.offset,),
        )
    return TiffHeader(
        height_px=layout.height,
        width_px=layout.width,
        samples=1,
        dtype=layout.stored_dtype,
        offset=offset,
        coded=coded,
    )


def read_tiff(source: Source, box: Box | None = None) -> NDArray[Any]:
    """Pixels of the first image, `(h, w)`, or of `box` of it."""
    header = read_tiff_header(source)
    box = box or Box(y0=0, x0=0, y1=header.height_px, x1=header.width_px)
    if header.coded is not None:
        region = (slice(0, 1), slice(box.y0, box.y1), slice(box.x0, box.x1))
        plane: NDArray[Any] = header.coded.read(region)[0]
        return plane
    if header.offset is None:
        raise FormatError(
            f"{source.uri}: found {header.samples} samples a pixel of {header.dtype}, "
            "expected one grey level a pixel; convert it to grey levels",
            uri=source.uri,
        )
    dtype = np.dtype(header.dtype)
    rows = np.empty((box.y1 - box.y0, header.width_px), dtype)
    at = header.offset + box.y0 * rows.strides[0]
    if source.fill(at, rows.reshape(-1).view(np.uint8)) < rows.nbytes:
        raise cut_short(source, f"{at + rows.nbytes} bytes were promised")
    pixels = np.ascontiguousarray(rows[:, box.x0 : box.x1])
    return pixels.astype(dtype.newbyteorder("="), copy=False)


def write_tiff(path: Path, image: NDArray[Any]) -> None:
    """Put `(h, w)` at `path` as one uncompressed strip, whole or not at all.

    Raises
    ------
    StorageError
        The disk is full or the folder may not be written.
    """
    atomic.write_bytes(path, encode_tiff(image))


def encode_tiff(image: NDArray[Any]) -> bytes:
    """The file of `(h, w)` as one uncompressed strip; no clock in it."""
    import tifffile

    buffer = io.BytesIO()
    # No version of tifffile either: equal pixels give equal bytes.
    tifffile.imwrite(
        buffer, image, photometric="minisblack", metadata=None, software=False
    )
    return bytes(buffer.getvalue())


def open_tiff(source: Source) -> Volume:
    """The pages of a TIFF as planes; only directories are read now.

    Raises
    ------
    FormatError
        The file is cut short or damaged, has colours, several channels or times beside
        its planes, or pages of different sizes.
    """
    first = _main_page(source)
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
        dtype=_dtype_name(layout.stored_dtype),
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
    start = plain_offset(first, layout)
    size = layout.height * layout.width * np.dtype(layout.stored_dtype).itemsize
    return PlainVolume(
        info=info,
        source=source,
        stored_dtype=layout.stored_dtype,
        offset=start or 0,
        stride=pages.stride or size,
        plane_offsets=None if pages.stride else pages.plain_offsets,
    )


def _main_page(source: Source) -> Directory:
    """The first page, or the image behind a camera's coloured preview of it."""
    pages = list(islice(TiffReader(source).directories(), 4))
    if not pages:
        raise FormatError(f"{source.uri}: found no image in this TIFF; save it again")
    if pages[0].number(277, 1) > 1:
        return next((page for page in pages if OLYMPUS_TAG in page), pages[0])
    return pages[0]


def _raw_stack(source: Source, first: Directory, scale: TiffScale) -> Pages | None:
    """ImageJ's stack of one directory: the planes follow each other behind it."""
    if scale.dialect != "ImageJ" or first.following or scale.axes is None:
        return None
    layout = layout_of(first)
    start, count = plain_offset(first, layout), int(np.prod(scale.axes))
    if start is None or count < 2:
        return None
    size = layout.height * layout.width * np.dtype(layout.stored_dtype).itemsize
    if start + count * size > source.length:
        raise cut_short(source, f"{count} images end at {start + count * size}")
    return Pages(
        layout=layout,
        count=count,
        directory_offsets=(),
        plain_offsets=None,
        stride=size,
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


def _dtype_name(stored: str) -> str:
    """Name of the type of what is read; half floats become float32, as everywhere."""
    name = np.dtype(stored).newbyteorder("=").name
    return "float32" if name == "float16" else name


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


def _tags(scale: TiffScale, sem: SemScale | None, pages: Pages) -> dict[str, Tag]:
    layout = pages.layout
    tags: dict[str, Tag] = dict(scale.tags) | (sem.tags if sem else {})
    tags["compression"] = _COMPRESSIONS.get(layout.compression, str(layout.compression))
    if layout.photometric == _PALETTE:
        tags["palette"] = True
    if layout.photometric == _WHITE_IS_ZERO:
        tags["white_is_zero"] = True
    if scale.axes and np.prod(scale.axes) > pages.count:
        # OME spreads an image over files; this one has a part of it.
        tags["planes_stated"] = int(np.prod(scale.axes))
    if pages.left_out:
        tags["pages_left_out"] = pages.left_out[:10]
    if scale.axes and scale.axes[1] != pages.count and pages.count > 1:
        # A series of times or channels alone is read as planes; this says so.
        names = dict(zip(("channels", "planes", "frames"), scale.axes, strict=True))
        tags["planes_are"] = max(names, key=lambda name: names[name])
    return tags
