"""MRC files as volumes: three axes, their order, their lengths, their labels.

Our own reading of the header stays (`formats.mrc`): it is 60 lines, reads ranges of
remote files, knows IMOD's signed and unsigned bytes, and a library would add nothing.
Source: www.ccpem.ac.uk/mrc_format/mrc2014.php; `mrcfile` reads the same voxels, with
one difference: it leaves the axes as stored, here they are always z, y, x.
"""

import struct

import numpy as np

from em_platform.formats.length_units import nm_of, rounded
from em_platform.formats.mrc import is_mrc, read_mrc_header
from em_platform.formats.mrc_extended import extended_tags
from em_platform.formats.plain_volume import PlainVolume
from em_platform.formats.source import Source
from em_platform.model.volume import Tag, VolumeInfo

__all__ = ["is_mrc", "open_mrc"]

_IMOD_STAMP = 1146047817
_IMOD_ORIGIN_AS_MRC2014 = 4
# What programs write that know no size: 1 Å.
_UNSET_NM = (0.1, 0.1)
_EXTENDED = {
    "SERI": "SerialEM",
    "AGAR": "Agard",
    "FEI1": "FEI version 1",
    "FEI2": "FEI version 2",
    "CCP4": "CCP4 symmetry",
    "MRCO": "MRC symmetry",
    "HDF5": "HDF5",
}


def open_mrc(source: Source) -> PlainVolume:
    """The images or map of an MRC file; only its header is read now.

    Raises
    ------
    FormatError
        Not an MRC file, a mode without grey levels, or cut short.
    """
    header = read_mrc_header(source)
    start = source.read(0, 1024)
    order = header.dtype[0]
    words = struct.unpack(f"{order}256i", start)
    axes = _stored_axes(words)
    stored = (header.images, header.height_px, header.width_px)
    z, y, x = (stored[axes.index(axis)] for axis in range(3))
    stack = words[22] == 0
    voxel = _voxel_size(start, order)
    more, pixel_nm = _extended(source, words, order)
    if pixel_nm is not None and (voxel is None or voxel[1:] == _UNSET_NM):
        voxel = (voxel[0] if voxel else 0.0, pixel_nm, pixel_nm)
    if voxel is not None and stack:
        voxel = (0.0, voxel[1], voxel[2])
    dtype = np.dtype(header.dtype)
    chunk = [1, 1, 1]
    for place in (1, 2):
        chunk[axes[place]] = stored[place]
    info = VolumeInfo(
        uri=source.uri,
        format="MRC",
        shape=(z, y, x),
        dtype="float32" if dtype.name == "float16" else dtype.name,
        voxel_size_nm=voxel,
        origin_nm=(0.0, 0.0, 0.0) if stack else _origin(start, order, voxel),
        chunk_shape=(chunk[0], chunk[1], chunk[2]),
        size_bytes=source.length,
        tags=_tags(start, words, order) | more,
    )
    return PlainVolume(
        info=info,
        source=source,
        stored_dtype=header.dtype,
        offset=header.offset,
        stride=header.height_px * header.width_px * dtype.itemsize,
        stored_axes=axes,
    )


def _stored_axes(words: tuple[int, ...]) -> tuple[int, int, int]:
    """Axes of the volume (0 is z) in the order section, row, column of the file."""
    column, row, section = words[16:19]
    if sorted((column, row, section)) != [1, 2, 3]:
        # Zeros in old files; other values are damage that harms no voxel.
        return 0, 1, 2
    return 3 - section, 3 - row, 3 - column


def _voxel_size(start: bytes, order: str) -> tuple[float, float, float] | None:
    samples = struct.unpack(order + "3i", start[28:40])
    cell_angstrom = struct.unpack(order + "3f", start[40:52])
    x, y, z = (
        nm_of(cell / count, "A") if count > 0 else None
        for cell, count in zip(cell_angstrom, samples, strict=True)
    )
    if x is None or y is None:
        return None
    return z or 0.0, y, x


def _origin(
    start: bytes, order: str, voxel: tuple[float, float, float] | None
) -> tuple[float, float, float]:
    """The first voxel's place, from the origin or else from the first indices.

    First indices count along columns, rows and sections, the origin along x, y, z.
    """
    x, y, z = struct.unpack(order + "3f", start[196:208])
    stamp, flags = struct.unpack(order + "2i", start[152:160])
    if not all(abs(value) < 1e9 for value in (x, y, z)):
        return 0.0, 0.0, 0.0
    if any((x, y, z)):
        turned = stamp == _IMOD_STAMP and not flags & _IMOD_ORIGIN_AS_MRC2014
        sign = -0.1 if turned else 0.1
        return rounded(z * sign), rounded(y * sign), rounded(x * sign)
    words = struct.unpack(f"{order}256i", start)
    if voxel is None:
        return 0.0, 0.0, 0.0
    found = [0.0, 0.0, 0.0]
    firsts = (words[6], words[5], words[4])
    for axis, first in zip(_stored_axes(words), firsts, strict=True):
        found[axis] = rounded(first * voxel[axis]) if abs(first) < 1e7 else 0.0
    return found[0], found[1], found[2]


def _extended(
    source: Source, words: tuple[int, ...], order: str
) -> tuple[dict[str, Tag], float | None]:
    kind = source.read(104, 4).decode("latin-1")
    if words[23] < 1:
        return {}, None
    return extended_tags(source, kind=kind, size=words[23], order=order)


def _tags(start: bytes, words: tuple[int, ...], order: str) -> dict[str, Tag]:
    kind = "image stack" if words[22] == 0 else "volume"
    found: dict[str, Tag] = {"content": kind, "mode": words[3]}
    if _stored_axes(words) != (0, 1, 2):
        found["stored_axes"] = tuple("zyx"[axis] for axis in _stored_axes(words))
    if words[23] > 0:
        name = start[104:108].decode("latin-1").strip("\0 ")
        found["extended_header"] = _EXTENDED.get(name, name or "unknown kind")
        found["extended_header_bytes"] = words[23]
    labels = [
        start[at : at + 80].decode("latin-1").strip("\0 ")
        for at in range(224, 224 + 80 * max(0, min(words[55], 10)), 80)
    ]
    if any(labels):
        found["labels"] = tuple(label for label in labels if label)
    if order == ">":
        found["byte_order"] = "big"
    return found
