"""DM3 and DM4 files of DigitalMicrograph as volumes.

The image is the first that is no thumbnail; the names of others stand in the tags.
"""

from math import prod

import numpy as np

from em_platform.errors import FormatError
from em_platform.formats.dm_images import DmImage, images_of, tags_of, voxel_size_of
from em_platform.formats.dm_tags import is_dm, read_tags
from em_platform.formats.source import Source
from em_platform.formats.volume import PlainVolume
from em_platform.model.volume import VolumeInfo

__all__ = ["is_dm", "open_dm"]

_DTYPES = {
    1: "i2",
    2: "f4",
    6: "u1",
    7: "i4",
    9: "i1",
    10: "u2",
    11: "u4",
    12: "f8",
    14: "u1",  # a mask, one byte a pixel
}
_OTHERS = {
    3: "complex pixels",
    5: "packed complex pixels (a Fourier transform)",
    8: "colour pixels",
    13: "complex pixels",
    23: "colour pixels (RGBA, 4 samples a pixel)",
    27: "packed complex pixels (a Fourier transform)",
    28: "packed complex pixels (a Fourier transform)",
}
_SPECTRUM_UNITS = {"ev", "kev", "s", "ms"}  # energy and time: such axes make no picture


def open_dm(source: Source) -> PlainVolume:
    """The image of a DM3 or DM4 file; only its tags are read now.

    Raises
    ------
    FormatError
        The file is cut short or damaged, or its image is a spectrum, complex or
        coloured.
    """
    version, tags = read_tags(source)
    images = images_of(tags)
    pictures = [image for image in images if not image.thumbnail]
    if not pictures:
        raise FormatError(
            f"{source.uri}: found no image in this DM{version} file, expected one; "
            "save the image itself with DigitalMicrograph",
            uri=source.uri,
        )
    image = pictures[0]
    dtype = _dtype(image, source, version)
    shape = _shape(image, source, version)
    needed = prod(shape) * np.dtype(dtype).itemsize
    if image.data_bytes < needed or image.data_offset + needed > source.length:
        raise FormatError(
            f"{source.uri}: truncated DM{version}, found {image.data_bytes} bytes of "
            f"pixels at {image.data_offset} of {source.length}, expected {needed}; "
            "copy it again from where it was made",
            uri=source.uri,
        )
    described = tags_of(image)
    if len(pictures) > 1:
        described["other_images"] = tuple(_named(other) for other in pictures[1:])
    info = VolumeInfo(
        uri=source.uri,
        format=f"DM{version}",
        shape=shape,
        dtype=np.dtype(dtype).name,
        voxel_size_nm=voxel_size_of(image),
        chunk_shape=(1, shape[1], shape[2]),
        size_bytes=source.length,
        tags=described,
    )
    return PlainVolume(
        info=info,
        source=source,
        stored_dtype=dtype,
        offset=image.data_offset,
        stride=shape[1] * shape[2] * np.dtype(dtype).itemsize,
    )


def _dtype(image: DmImage, source: Source, version: int) -> str:
    name = _DTYPES.get(image.data_type)
    if name is None:
        found = _OTHERS.get(image.data_type, f"pixels of type {image.data_type}")
        raise _no_image(source, version, found)
    # Files of the other byte order were refused with their tags.
    return np.dtype(name).newbyteorder("<").str


def _shape(image: DmImage, source: Source, version: int) -> tuple[int, int, int]:
    sizes = image.sizes
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    plane_units = {unit.strip().casefold() for unit in image.units[:2]}
    # A single line of pixels is a spectrum, whatever its unit.
    if len(sizes) < 2 or min(sizes[:2]) < 2 or plane_units & _SPECTRUM_UNITS:
        unit = next((unit for unit in image.units if unit.strip()), "no unit")
        found = f"a spectrum of {' x '.join(map(str, sizes)) or 'no'} channels ({unit})"
        raise _no_image(source, version, found)
    if len(sizes) > 3:
        text = " x ".join(map(str, reversed(sizes)))
        raise _no_image(source, version, f"{len(sizes)} axes ({text})")
    if min(sizes) < 1:
        raise _no_image(source, version, f"an image of {sizes} pixels")
    x, y, z = (*sizes, 1)[:3]
    return z, y, x


def _no_image(source: Source, version: int, found: str) -> FormatError:
    return FormatError(
        f"{source.uri}: found {found} in this DM{version} file, expected an image of "
        "grey levels along y and x, or z, y and x; convert it",
        uri=source.uri,
    )


def _named(image: DmImage) -> str:
    size = " x ".join(map(str, reversed(image.sizes)))
    return f"{image.name} ({size})".strip()
