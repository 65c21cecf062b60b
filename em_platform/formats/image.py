"""One grey image from a TIFF, PNG, JPEG or MRC file, known by its first bytes.

`name.mrc#12` is image 12 of a stack, `name.zarr/0` level 0 of an OME-Zarr image. Every
value that comes out of a TIFF is a grey level that grows with brightness: a palette is
applied, and white-is-zero inverted. A tile is written as TIFF here, too.
"""

import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.header_values import check_image, ratio_of
from em_platform.formats.mrc import check_index, is_mrc, read_mrc, read_mrc_header
from em_platform.formats.raster import (
    JPEG_START,
    PNG_START,
    read_jpeg_header,
    read_png_header,
    read_raster,
)
from em_platform.formats.source import Source, filling, open_source
from em_platform.formats.tiff import CodedVolume
from em_platform.formats.tiff_directory import Directory, is_tiff, scale_of
from em_platform.formats.tiff_pages import (
    PALETTE,
    WHITE_IS_ZERO,
    greys_of,
    layout_of,
    main_page,
    plain_offset,
)
from em_platform.formats.volume import FileKey, key_of
from em_platform.model import Box, Size
from em_platform.model.sentences import size_of
from em_platform.model.volume import VolumeInfo
from em_platform.storage import atomic
from em_platform.storage.layout import StorageOptions


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
    greys: tuple[int, ...] | None = None
    """The grey level that each value stands for; None where it is one itself."""
    inverted: bool = False
    """Whether 0 is white."""


# A stitch reads each tile's header and four strips of it: its directory is parsed once.
_HEADERS: dict[FileKey, TiffHeader] = {}
_MOST_HEADERS = 4096
# By the length of the file: the frames of a camera begin with the same bytes.
_STARTS: dict[int, tuple[bytes, TiffHeader]] = {}
_MOST_STARTS = 64


def read_tiff_header(source: Source) -> TiffHeader:
    """Size, type and place of the image; previews of it do not count.

    Raises
    ------
    FormatError
        Not a TIFF, or cut short: pixels are promised behind the file's end, or more
        of them than the file can hold; or several images.
    """
    key = key_of(source)
    # Without a lock: at worst two threads read one header twice.
    found = _HEADERS.get(key)
    if found is None:
        if len(_HEADERS) >= _MOST_HEADERS:
            _HEADERS.clear()
        found = _HEADERS[key] = _same_start(source) or _read_header(source, key)
    return found


def _same_start(source: Source) -> TiffHeader | None:
    """That of a file as long as this one, with the same bytes before the pixels."""
    start, header = _STARTS.get(source.length, (b"", None))
    return header if header and source.first.startswith(start) else None


def _read_header(source: Source, key: FileKey) -> TiffHeader:
    first = main_page(source)
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
    _check_single(first)
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
            dtype=layout.dtype,
        )
        coded = CodedVolume(
            info=info,
            source=source,
            key=key,
            layout=layout,
            directory_offsets=(first.offset,),
        )
    header = TiffHeader(
        height_px=layout.height,
        width_px=layout.width,
        samples=1,
        dtype=layout.stored_dtype,
        offset=offset,
        coded=coded,
        greys=greys_of(first, layout) if layout.photometric == PALETTE else None,
        inverted=layout.photometric == WHITE_IS_ZERO,
    )
    if offset and offset <= len(source.first) and first.is_all_before(offset):
        if len(_STARTS) >= _MOST_STARTS:
            _STARTS.clear()
        _STARTS[source.length] = source.first[:offset], header
    return header


def _check_single(first: Directory) -> None:
    """Refuse a file of several images, of which nobody says which one is meant."""
    count = 1
    if first.following:
        second = first.file.directory(first.following)
        count += second.uniform_key == first.uniform_key and not second.is_reduced
    elif not first.text(270).startswith("<"):
        # Behind one directory: ImageJ and tifffile say so in its description.
        count = max(1, int(np.prod(scale_of(first).axes or 1)))
    if count > 1:
        source = first.source
        raise FormatError(
            f"{source.uri}: found several images in this TIFF, expected one a tile; "
            "split it into files of one image",
            uri=source.uri,
        )


def read_tiff(source: Source, box: Box | None = None) -> NDArray[Any]:
    """Grey levels of the image, `(h, w)`, or of `box` of it; 0 is black."""
    header = read_tiff_header(source)
    pixels = _stored_pixels(source, header, box)
    if header.greys is not None:
        greys: NDArray[Any] = np.array(header.greys, pixels.dtype)[pixels]
        return greys
    if header.inverted and pixels.dtype.kind == "f":
        raise FormatError(
            f"{source.uri}: found floats of which 0 is white, expected grey levels "
            "that grow with brightness; convert it",
            uri=source.uri,
        )
    return np.invert(pixels) if header.inverted else pixels


def _stored_pixels(source: Source, header: TiffHeader, box: Box | None) -> NDArray[Any]:
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
    with filling(source) as fill:
        fill(header.offset + box.y0 * rows.strides[0], rows)
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
    return b"".join(tiff_parts(image))


def tiff_parts(image: NDArray[Any]) -> tuple[bytes, memoryview]:
    """What `encode_tiff` joins: all before the pixels, and the pixels, not copied."""
    pixels = np.ascontiguousarray(image, image.dtype.newbyteorder("="))
    return _tiff_start(pixels.shape, pixels.dtype.str), pixels.data.cast("B")


@lru_cache(maxsize=8)
def _tiff_start(shape: tuple[int, ...], dtype: str) -> bytes:
    import tifffile

    blank = np.zeros(shape, dtype)
    buffer = io.BytesIO()
    # No version of tifffile either: equal pixels give equal bytes.
    tifffile.imwrite(
        buffer, blank, photometric="minisblack", metadata=None, software=False
    )
    return buffer.getvalue()[: -blank.nbytes]


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


def read_header(uri: str, options: StorageOptions | None = None) -> ImageHeader:
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
        found = size_of((height, width)) if min(height, width) < 1 else found
        raise FormatError(
            f"{uri}: found {found}, expected one grey level a pixel (8 or 16 bit, or "
            "float32); convert it",
            uri=uri,
        )
    return ImageHeader(
        size=Size(height_px=height, width_px=width), dtype=np.dtype(dtype).name
    )


def read_image(
    uri: str, box: Box | None = None, *, options: StorageOptions | None = None
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


def _level_header(level: re.Match[str], options: StorageOptions | None) -> ImageHeader:
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
    level: re.Match[str], box: Box | None, options: StorageOptions | None
) -> NDArray[Any]:
    from em_platform.formats.ome_zarr import read_pixels

    found = _open_level(level, options)
    if box is None or found.ndim != 2:
        return read_pixels(level[0], found)
    return read_pixels(level[0], found, np.s_[box.y0 : box.y1, box.x0 : box.x1])


def _open_level(level: re.Match[str], options: StorageOptions | None) -> Any:
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
