"""PNG and JPEG: their headers in one small read, their pixels by imagecodecs."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.source import Source

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_JPEG_NOT_FRAMES = {0xC4, 0xC8, 0xCC}


def read_png_header(source: Source) -> tuple[int, int, int, str]:
    """Height, width, samples a pixel and type of a PNG that is whole."""
    start = source.read(0, 26)
    if len(start) < 26 or source.read(max(0, source.length - 64), 64)[-8:-4] != b"IEND":
        raise _cut_short(source, "PNG")
    width, height, bits, colour = struct.unpack(">IIBB", start[16:26])
    # A palette may hold colours: one byte a pixel is then not a grey level.
    samples = 3 if colour == 3 else _PNG_SAMPLES.get(colour, 1)
    return height, width, samples, "<u2" if bits == 16 else "|u1"


def read_jpeg_header(source: Source) -> tuple[int, int, int, str]:
    """Height, width, samples a pixel and type of a JPEG that is whole."""
    if b"\xff\xd9" not in source.read(max(0, source.length - 1024), 1024):
        raise _cut_short(source, "JPEG")
    at = 2
    while True:
        head = source.read(at, 10)
        if len(head) < 10 or head[0] != 0xFF:
            raise _cut_short(source, "JPEG")
        if 0xC0 <= head[1] <= 0xCF and head[1] not in _JPEG_NOT_FRAMES:
            height, width, samples = struct.unpack(">HHB", head[5:10])
            return height, width, samples, "|u1" if head[4] == 8 else "<u2"
        at += 2 + struct.unpack(">H", head[2:4])[0]


def read_raster(source: Source) -> NDArray[Any]:
    """Pixels of a PNG or JPEG, `(h, w)` or `(h, w, samples)`."""
    import imagecodecs

    content = source.all()
    decode = (
        imagecodecs.png_decode
        if content.startswith(PNG_START)
        else imagecodecs.jpeg8_decode
    )
    try:
        return np.asarray(decode(content))
    except Exception as error:
        raise FormatError(
            f"{source.uri}: cannot be decoded ({error}), expected a whole PNG or JPEG; "
            "copy it again from the microscope",
            uri=source.uri,
        ) from error


def _cut_short(source: Source, kind: str) -> FormatError:
    return FormatError(
        f"{source.uri}: truncated {kind}, found {source.length} bytes without its end "
        "mark; copy it again from the microscope",
        uri=source.uri,
    )
