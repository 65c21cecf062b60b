"""TIFF, BigTIFF, ImageJ and OME-TIFF: many pages as a volume.

tifffile reads the directories and decodes; what is decided here is which pages make one
volume and which of their bytes are read. Pages stored plain are read by row straight
off the disk, others piece by piece (`formats.tiff_decode`): in both cases memory is
bounded by the region, however large a page is. ImageJ writes stacks above 4 GB as one
page with all planes behind it.
"""

from dataclasses import replace

import numpy as np

from em_platform.errors import FormatError
from em_platform.formats.sem_tiff import SemScale, sem_scale
from em_platform.formats.source import Source
from em_platform.formats.tiff_decode import CodedVolume
from em_platform.formats.tiff_directory import Directory, cut_short
from em_platform.formats.tiff_pages import (
    PALETTE,
    WHITE_IS_ZERO,
    Pages,
    layout_of,
    main_page,
    pages_of,
    plain_offset,
)
from em_platform.formats.tiff_scale import TiffScale, scale_of
from em_platform.formats.volume import PlainVolume, Volume, key_of
from em_platform.model.volume import Tag, VolumeInfo

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
    if sem is not None and sem.modality is not None:
        tags["modality"] = sem.modality
    tags["compression"] = _COMPRESSIONS.get(layout.compression, str(layout.compression))
    if layout.photometric == PALETTE:
        tags["palette"] = True
    if layout.photometric == WHITE_IS_ZERO:
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
