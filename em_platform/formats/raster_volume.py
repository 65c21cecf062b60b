"""PNG and JPEG files as volumes of one plane.

They are decoded whole: their rows cannot be reached singly. A stack of them is read
plane by plane, and the planes read last are remembered.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.decoded import DECODED, FileKey, is_plausible, key_of
from em_platform.formats.raster import (
    JPEG_START,
    PNG_START,
    read_jpeg_header,
    read_png_header,
    read_raster,
)
from em_platform.formats.region import bounds_of
from em_platform.formats.source import Source
from em_platform.formats.volume import Region
from em_platform.model.volume import Tag, VolumeInfo


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


def is_raster(start: bytes) -> bool:
    """Whether a file that begins so claims to be PNG or JPEG."""
    return start.startswith((PNG_START, JPEG_START))


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
        raise _no_grey(source, f"{samples} samples a pixel, {height} x {width} pixels")
    size = height * width * samples * np.dtype(dtype).itemsize
    if not is_plausible(source.length, size):
        raise _no_grey(source, f"{height} x {width} pixels in {source.length} bytes")
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
