"""PNG and JPEG: their headers in one small read, their pixels by imagecodecs.

They are decoded whole: their rows cannot be reached singly. A stack of them is read
plane by plane, and the planes read last are remembered.
"""

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.header_values import check_image
from em_platform.formats.source import Source
from em_platform.formats.volume import (
    DECODED,
    FileKey,
    Region,
    bounds_of,
    key_of,
)
from em_platform.model.sentences import size_of
from em_platform.model.volume import Tag, VolumeInfo

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
# By colour type (PNG 1.2, 4.1.1).
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# DHT, JPG and DAC have numbers amid those of frames (ITU-T T.81, table B.1).
_JPEG_NOT_FRAMES = {0xC4, 0xC8, 0xCC}


def read_png_header(source: Source) -> tuple[int, int, int, str]:
    """Height, width, samples a pixel and type of a PNG that is whole."""
    # IEND is the last chunk; behind its name is nothing but its CRC.
    if source.read(max(0, source.length - 64), 64)[-8:-4] != b"IEND":
        raise _cut_short(source, "PNG")
    return _checked(source, _png_frame(source))


def read_jpeg_header(source: Source) -> tuple[int, int, int, str]:
    """Height, width, samples a pixel and type of a JPEG that is whole."""
    # Near the end and not at it: padding may follow the end mark.
    if b"\xff\xd9" not in source.read(max(0, source.length - 1024), 1024):
        # Or something else, of any length. A preview ends before the pixels begin.
        content = source.all()
        if b"\xff\xd9" not in content[max(0, content.rfind(b"\xff\xda")) :]:
            raise _cut_short(source, "JPEG")
    return _checked(source, _jpeg_frame(source))


def _png_frame(source: Source) -> tuple[int, int, int, str]:
    start = source.read(0, 26)
    if len(start) < 26:
        raise _cut_short(source, "PNG")
    width, height, bits, colour = struct.unpack(">IIBB", start[16:26])
    # A palette may hold colours: one byte a pixel is then not a grey level.
    samples = 3 if colour == 3 else _PNG_SAMPLES.get(colour, 1)
    return height, width, samples, "<u2" if bits == 16 else "|u1"


def _jpeg_frame(source: Source) -> tuple[int, int, int, str]:
    at = 2
    while True:
        head = source.read(at, 10)
        if len(head) < 10 or head[0] != 0xFF:
            raise _cut_short(source, "JPEG")
        if 0xC0 <= head[1] <= 0xCF and head[1] not in _JPEG_NOT_FRAMES:
            height, width, samples = struct.unpack(">HHB", head[5:10])
            return height, width, samples, "|u1" if head[4] == 8 else "<u2"
        # A segment's length counts itself, but not its mark (T.81, B.1.1.4).
        at += 2 + struct.unpack(">H", head[2:4])[0]


def jpeg_size(content: bytes, *, uri: str) -> tuple[int, int]:
    """Height and width of a JPEG in memory, by its header; `uri` is for sentences.

    Raises
    ------
    FormatError
        It has no header.
    """
    whole = Source(uri=uri, length=len(content), first=content)
    height, width, *_ = _jpeg_frame(whole)
    return height, width


def read_raster(source: Source) -> NDArray[Any]:
    """Pixels of a PNG or JPEG, `(h, w)` or `(h, w, samples)`."""
    import imagecodecs

    content = source.all()
    # In memory by now: its header costs no second read.
    whole = replace(source, first=content, length=len(content))
    if content.startswith(PNG_START):
        frame, decode = _png_frame(whole), imagecodecs.png_decode
    else:
        frame, decode = _jpeg_frame(whole), imagecodecs.jpeg8_decode
    _checked(whole, frame)
    try:
        return np.asarray(decode(content))
    except Exception as error:
        # Each codec of imagecodecs has an error of its own.
        raise FormatError(
            f"{source.uri}: cannot be decoded ({error}), expected a whole PNG or JPEG; "
            "copy it again from the microscope",
            uri=source.uri,
        ) from error


def _checked(
    source: Source, frame: tuple[int, int, int, str]
) -> tuple[int, int, int, str]:
    """The header, refused where it asks for more memory than its file can fill."""
    height, width, samples, dtype = frame
    check_image(
        source.uri,
        (height, width),
        pixel_bytes=samples * np.dtype(dtype).itemsize,
        file_bytes=source.length,
    )
    return frame


def _cut_short(source: Source, kind: str) -> FormatError:
    return FormatError(
        f"{source.uri}: truncated {kind}, found {source.length} bytes without its end "
        "mark; copy it again from the microscope",
        uri=source.uri,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterVolume:
    """One plane that is decoded when it is read."""

    info: VolumeInfo
    source: Source
    key: FileKey

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`, in native byte order."""
        z, y, x = (slice(*ends) for ends in bounds_of(region, self.info.shape))
        pixels = DECODED.get(self.key)
        if pixels is None:
            pixels = self._decode()
            DECODED.put(self.key, pixels)
        return pixels[z, y, x].copy()

    def _decode(self) -> NDArray[Any]:
        pixels = read_raster(self.source)
        if pixels.ndim == 3 and pixels.shape[2] == 2:
            pixels = self._without_alpha(pixels)
        if pixels.shape != self.info.shape[1:]:
            raise _no_grey(self.source, f"pixels of shape {pixels.shape}")
        return pixels[None].astype(self.info.dtype, copy=False)

    def _without_alpha(self, pixels: NDArray[Any]) -> NDArray[Any]:
        opaque = np.iinfo(pixels.dtype).max
        if not (pixels[..., 1] == opaque).all():
            raise _no_grey(self.source, "pixels that are partly transparent")
        return np.ascontiguousarray(pixels[..., 0])


def is_raster(source: Source) -> bool:
    """Whether the file claims to be PNG or JPEG."""
    return source.read(0, 8).startswith((PNG_START, JPEG_START))


def open_raster(source: Source) -> RasterVolume:
    """The image of a PNG or JPEG; only its header is read now.

    Raises
    ------
    FormatError
        The file is cut short, or has colours.
    """
    png = source.read(0, 8) == PNG_START
    read_header = read_png_header if png else read_jpeg_header
    height, width, samples, dtype = read_header(source)
    if samples > 2 or min(height, width) < 1:
        raise _no_grey(source, f"{samples} samples a pixel, {size_of((height, width))}")
    tags: dict[str, Tag] = {"compression": "Deflate" if png else "JPEG"}
    if samples == 2:
        tags["alpha"] = "left out"
    info = VolumeInfo(
        uri=source.uri,
        format="PNG" if png else "JPEG",
        shape=(1, height, width),
        dtype=np.dtype(dtype).name,
        chunk_shape=(1, height, width),
        size_bytes=source.length,
        tags=tags,
    )
    return RasterVolume(info=info, source=source, key=key_of(source))


def _no_grey(source: Source, found: str) -> FormatError:
    return FormatError(
        f"{source.uri}: found {found}, expected one grey level a pixel; convert it to "
        "grey levels",
        uri=source.uri,
    )
