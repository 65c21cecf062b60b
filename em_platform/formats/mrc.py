"""MRC stacks (MRC2014 and IMOD's dialect): one image of the stack at a time.

Sources: www.ccpem.ac.uk/mrc_format/mrc2014.php and IMOD's mrc_format.txt. Rows stay in
the order in which they are stored; viewers of the field show the first one at the
bottom.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.source import Source

_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_IMOD_STAMP = 1146047817
_HEADER_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MrcHeader:
    """What the first 1,024 bytes say."""

    images: int
    height_px: int
    width_px: int
    dtype: str
    offset: int
    pixel_nm: float | None


def is_mrc(source: Source) -> bool:
    """Whether the file claims to be an MRC stack."""
    names = (".mrc", ".mrcs", ".st", ".map", ".rec", ".ali")
    return source.read(208, 3) == b"MAP" or source.uri.lower().endswith(names)


def read_mrc_header(source: Source) -> MrcHeader:
    """Size, type and place of the images.

    Raises
    ------
    FormatError
        Not an MRC file, a mode without grey levels, or cut short.
    """
    start = source.read(0, _HEADER_BYTES)
    if len(start) < _HEADER_BYTES:
        raise _cut_short(source, _HEADER_BYTES)
    order = ">" if start[212:214] == b"\x11\x11" else "<"
    width, height, images, mode = struct.unpack(order + "4i", start[:16])
    if mode not in _MODES or min(width, height, images) < 1:
        raise FormatError(
            f"{source.uri}: found MRC mode {mode} of {images} x {height} x {width}, "
            "expected grey images (modes 0, 1, 2, 6, 12); convert it",
            uri=source.uri,
        )
    dtype = _MODES[mode]
    stamp, flags = struct.unpack(order + "2i", start[152:160])
    if mode == 0 and stamp == _IMOD_STAMP and not flags & 1:
        dtype = "u1"
    (extended,) = struct.unpack(order + "i", start[92:96])
    offset = _HEADER_BYTES + max(0, extended)
    end = offset + images * height * width * np.dtype(dtype).itemsize
    if end > source.length:
        raise _cut_short(source, end)
    return MrcHeader(
        images=images,
        height_px=height,
        width_px=width,
        dtype=order + dtype,
        offset=offset,
        pixel_nm=_pixel_nm(start, order),
    )


def read_mrc(source: Source, index: int = 0) -> NDArray[Any]:
    """Image `index` of the stack, `(h, w)`; signed bytes become 0 to 255."""
    header = read_mrc_header(source)
    if not 0 <= index < header.images:
        raise FormatError(
            f"{source.uri}: image {index} was asked for, {header.images} are there; "
            "give the stack that belongs to this list",
            uri=source.uri,
        )
    image = np.empty((header.height_px, header.width_px), np.dtype(header.dtype))
    at = header.offset + index * image.nbytes
    if source.fill(at, image.reshape(-1).view(np.uint8)) < image.nbytes:
        raise _cut_short(source, at + image.nbytes)
    if image.dtype == np.int8:
        return (image.view(np.uint8) ^ 0x80).astype(np.uint8, copy=False)
    if image.dtype.kind == "f":
        return image.astype(np.float32, copy=False)
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def _pixel_nm(start: bytes, order: str) -> float | None:
    samples = struct.unpack(order + "i", start[28:32])[0]
    length_angstrom = struct.unpack(order + "f", start[40:44])[0]
    if samples < 1 or not 0 < length_angstrom < 1e12:
        return None
    return float(length_angstrom / samples / 10)


def _cut_short(source: Source, expected: int) -> FormatError:
    return FormatError(
        f"{source.uri}: truncated MRC, found {source.length} bytes, expected {expected}"
        "; copy it again from the microscope",
        uri=source.uri,
    )
