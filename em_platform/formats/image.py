"""One grey image from a TIFF, PNG, JPEG or MRC file, known by its first bytes.

`name.mrc#12` is image 12 of a stack, `name.zarr/0` level 0 of an OME-Zarr image.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.mrc import check_index, is_mrc, read_mrc, read_mrc_header
from em_platform.formats.raster import (
    JPEG_START,
    PNG_START,
    read_jpeg_header,
    read_png_header,
    read_raster,
)
from em_platform.formats.source import Source, open_source
from em_platform.formats.tiff_directory import is_tiff
from em_platform.formats.tiff_image import read_tiff, read_tiff_header
from em_platform.model import Box, Size

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".mrc")
"""Names that may hold a tile."""

_GREY = {"u1", "u2", "i2", "f4"}
_LEVEL = re.compile(r"^(?P<image>.+\.zarr)/(?P<level>\d+)/?$")
_INDEX = re.compile(r"^(?P<file>.*\.[A-Za-z]+)#(?P<index>\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """Size and type of an image, known without its pixels."""

    size: Size
    dtype: str
    """`uint8`, `uint16`, `int16` or `float32`."""


def read_header(uri: str, options: Mapping[str, Any] | None = None) -> ImageHeader:
    """Size and type of the image at `uri`, from a few small reads.

    Raises
    ------
    FormatError
        No such file, empty, cut short, not an image, or not of grey levels.
    """
    if level := _LEVEL.match(uri):
        return _level_header(level, options)
    file, index = split_index(uri)
    source = open_source(file, options)
    height, width, samples, dtype = _header(source, index)
    if samples != 1 or dtype[1:] not in _GREY or min(height, width) < 1:
        found = f"{samples} samples a pixel" if samples != 1 else dtype[1:]
        found = f"{height} x {width} pixels" if min(height, width) < 1 else found
        raise FormatError(
            f"{uri}: found {found}, expected one grey level a pixel (8 or 16 bit, or "
            "float32); convert it",
            uri=uri,
        )
    return ImageHeader(
        size=Size(height_px=height, width_px=width), dtype=np.dtype(dtype).name
    )


def read_image(
    uri: str, box: Box | None = None, *, options: Mapping[str, Any] | None = None
) -> NDArray[Any]:
    """Grey levels of the image at `uri`, `(h, w)`, or of `box` of it.

    Of an uncompressed TIFF only the rows of `box` are read, of an OME-Zarr its chunks.

    Raises
    ------
    FormatError
        As `read_header`, or the pixels cannot be decoded.
    """
    if level := _LEVEL.match(uri):
        return _one_grey(_level_pixels(level, box, options), uri)
    file, index = split_index(uri)
    # All in one request, where all is wanted.
    source = open_source(file, options, whole=box is None)
    if is_tiff(source):
        return _one_grey(read_tiff(source, box), uri)
    if source.read(0, 8) == PNG_START or source.read(0, 3) == JPEG_START:
        image = read_raster(source)
    elif is_mrc(source):
        image = read_mrc(source, index)
    else:
        raise _unknown(source)
    image = _one_grey(image, uri)
    if box is None:
        return image
    return np.ascontiguousarray(image[box.y0 : box.y1, box.x0 : box.x1])


def _level_header(
    level: re.Match[str], options: Mapping[str, Any] | None
) -> ImageHeader:
    found = _open_level(level, options)
    if found.ndim != 2 or found.dtype.str[1:] not in _GREY:
        raise FormatError(
            f"{level[0]}: found {found.ndim} axes of {found.dtype}, expected rows and "
            "columns of grey levels (8 or 16 bit, or float32); convert it",
            uri=level[0],
        )
    height, width = found.shape
    return ImageHeader(
        size=Size(height_px=height, width_px=width), dtype=found.dtype.name
    )


def _level_pixels(
    level: re.Match[str], box: Box | None, options: Mapping[str, Any] | None
) -> NDArray[Any]:
    from em_platform.formats.ome_zarr import read_plainly

    found = _open_level(level, options)
    with read_plainly(level[0]):
        if box is None or found.ndim != 2:
            return np.asarray(found[:])
        return np.asarray(found[box.y0 : box.y1, box.x0 : box.x1])


def _open_level(level: re.Match[str], options: Mapping[str, Any] | None) -> Any:
    # Zarr needs half a second to import; few who read images read it.
    from em_platform.formats.ome_zarr import open_level

    return open_level(
        level["image"], int(level["level"]), storage_options=dict(options or {})
    )


def split_index(uri: str) -> tuple[str, int | None]:
    """The file of `name.mrc#12` and the number of the image in it, if given."""
    found = _INDEX.match(uri)
    return (found["file"], int(found["index"])) if found else (uri, None)


def _header(source: Source, index: int | None) -> tuple[int, int, int, str]:
    start = source.read(0, 8)
    if is_tiff(source):
        tiff = read_tiff_header(source)
        return tiff.height_px, tiff.width_px, tiff.samples, tiff.dtype
    if start == PNG_START:
        return read_png_header(source)
    if start[:3] == JPEG_START:
        return read_jpeg_header(source)
    if not is_mrc(source):
        raise _unknown(source)
    mrc = read_mrc_header(source)
    check_index(source, mrc, index)
    # As `read_mrc` gives them: bytes from 0 to 255, half floats as float32.
    dtype = {"i1": "|u1", "u1": "|u1", "f2": "<f4"}.get(mrc.dtype[1:], mrc.dtype)
    return mrc.height_px, mrc.width_px, 1, dtype


def _one_grey(image: NDArray[Any], uri: str) -> NDArray[Any]:
    if image.ndim != 2:
        raise FormatError(
            f"{uri}: found an image of shape {image.shape}, expected rows and columns "
            "of grey levels; convert it",
            uri=uri,
        )
    return image


def _unknown(source: Source) -> FormatError:
    return FormatError(
        f"{source.uri}: found a file that starts with {source.read(0, 4)!r}, expected "
        "TIFF, PNG, JPEG or MRC; convert it",
        uri=source.uri,
    )
