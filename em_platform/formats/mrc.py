"""MRC files (MRC2014 and IMOD's dialect): images of a stack, or a volume.

Sources: www.ccpem.ac.uk/mrc_format/mrc2014.php and IMOD's mrc_format.txt; FEI's
"MRC2014 extended header" tables as given in mrcfile's documentation, and Agard's list.
Rows stay in the order in which they are stored; viewers of the field show the first
one at the bottom. Axes are always z, y, x here, whatever their order in the file.
"""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.header_values import nm_of, rounded
from em_platform.formats.source import Source, filling
from em_platform.formats.volume import PlainVolume
from em_platform.model.volume import Tag, VolumeInfo

_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
# The letters IMOD as a little-endian number.
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
    # MRC2014's machine stamp; old files have none.
    order = ">" if start[212:214] == b"\x11\x11" else "<"
    width, height, images, mode = struct.unpack(order + "4i", start[:16])
    if mode not in _MODES or min(width, height, images) < 1:
        raise FormatError(
            f"{source.uri}: found MRC mode {mode} of {images} x {height} x {width}, "
            "expected grey images (modes 0, 1, 2, 6, 12); convert it",
            uri=source.uri,
        )
    dtype = _MODES[mode]
    # IMOD's bytes have a sign only where bit 0 of its flags says so.
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


def _left_out(source: Source, header: MrcHeader) -> dict[str, Tag]:
    image = header.height_px * header.width_px * np.dtype(header.dtype).itemsize
    last = (source.length - header.offset) // image
    text = f"images up to number {last}, where its header counts {header.images}"
    return {"left_out": (text,)} if last > header.images else {}


def check_index(source: Source, header: MrcHeader, index: int | None) -> int:
    """The image of a stack that is meant; the only one needs no number.

    Raises
    ------
    FormatError
        There is none of this number, or several and no number.
    """
    if index is None and header.images > 1:
        raise FormatError(
            f"{source.uri}: found {header.images} images in this MRC, expected one a "
            f"tile; name one of them, such as {source.uri}#0",
            uri=source.uri,
        )
    if not 0 <= (index or 0) < header.images:
        raise FormatError(
            f"{source.uri}: image {index} was asked for, {header.images} are there; "
            "give the stack that belongs to this list",
            uri=source.uri,
        )
    return index or 0


def read_mrc(source: Source, index: int | None = None) -> NDArray[Any]:
    """Image `index` of the stack, `(h, w)`; signed bytes become 0 to 255."""
    header = read_mrc_header(source)
    index = check_index(source, header, index)
    image = np.empty((header.height_px, header.width_px), np.dtype(header.dtype))
    with filling(source) as fill:
        fill(header.offset + index * image.nbytes, image)
    if image.dtype == np.int8:
        # Turning the sign bit adds 128 without a wider type.
        return (image.view(np.uint8) ^ 0x80).astype(np.uint8, copy=False)
    if image.dtype.kind == "f":
        return image.astype(np.float32, copy=False)
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def _pixel_nm(start: bytes, order: str) -> float | None:
    samples = struct.unpack(order + "i", start[28:32])[0]
    length_angstrom = struct.unpack(order + "f", start[40:44])[0]
    if samples < 1 or not 0 < length_angstrom < 1e12:
        return None
    return float(length_angstrom / samples / 10)  # from Å


def _cut_short(source: Source, expected: int) -> FormatError:
    return FormatError(
        f"{source.uri}: truncated MRC, found {source.length} bytes, expected {expected}"
        "; copy it again from the microscope",
        uri=source.uri,
    )


# Of an image's 32 numbers the first 16 have a meaning.
_AGARD_FLOATS = 16
# Windows counts days from here (OLE dates).
_DAY_ZERO = datetime(1899, 12, 30, tzinfo=UTC)


def _extended(
    source: Source, *, size: int, order: str
) -> tuple[dict[str, Tag], float | None]:
    """Tags of the first image and its pixel's length in nm, where they are written.

    `size` is the bytes of the extended header.
    """
    if size < 1:
        return {}, None
    kind = source.read(104, 4).decode("latin-1")
    content = source.read(_HEADER_BYTES, min(size, 1024))
    if kind in ("FEI1", "FEI2") and len(content) >= 172:
        return _fei(content[:172], order)
    label = source.read(224, 80)
    if kind not in ("SERI", "CCP4") and b"Fei Company" in label and len(content) >= 128:
        return _agard(content[: _AGARD_FLOATS * 4], order)
    return {}, None


def _fei(content: bytes, order: str) -> tuple[dict[str, Tag], float | None]:
    record = struct.unpack(f"{order}iiId16s16s16s16s11d", content)
    days, microscope, software = record[3], _text(record[4]), _text(record[6])
    voltage_v, _, alpha_deg, beta_deg = record[8:12]
    tags: dict[str, Tag] = {}
    if microscope:
        tags["microscope"] = microscope
    if software:
        tags["software"] = f"{software} {_text(record[7])}".strip()
    if 0 < voltage_v < 1e7:
        tags["voltage_v"] = rounded(voltage_v)
    for name, angle in (("tilt_deg", alpha_deg), ("beta_tilt_deg", beta_deg)):
        if 0 < abs(angle) <= 180:
            tags[name] = rounded(angle)
    if 20_000 < days < 80_000:  # 1954 to 2119
        moment = _DAY_ZERO + timedelta(days=days)
        tags["imaging_date"] = moment.date().isoformat()
        tags["imaging_time"] = moment.time().isoformat("seconds")
    return tags, nm_of(record[17], "m")


def _agard(content: bytes, order: str) -> tuple[dict[str, Tag], float | None]:
    values = struct.unpack(f"{order}{_AGARD_FLOATS}f", content)
    tags: dict[str, Tag] = {}
    for name, place in (("magnification", 12), ("voltage_v", 13)):
        if 0 < values[place] < 1e9:
            tags[name] = rounded(values[place])
    if 0 < abs(values[0]) <= 180:
        tags["tilt_deg"] = rounded(values[0])
    return tags, nm_of(values[11], "m")


def _text(content: bytes) -> str:
    return content.split(b"\0")[0].decode("latin-1").strip()


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
    _check_one_volume(source, words)
    # ISPG, the space group: 0 says images, whose distance along z is unknown.
    stack = words[22] == 0
    voxel = _voxel_size(start, order)
    more, pixel_nm = _extended(source, size=words[23], order=order)
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
        tags=_tags(start, words, order) | more | _left_out(source, header),
    )
    return PlainVolume(
        info=info,
        source=source,
        stored_dtype=header.dtype,
        offset=header.offset,
        stride=header.height_px * header.width_px * dtype.itemsize,
        stored_axes=axes,
    )


def _check_one_volume(source: Source, words: tuple[int, ...]) -> None:
    # MRC2014: a space group from 401 on says volumes, of MZ sections each.
    sections, each = words[2], words[9]
    if 401 <= words[22] <= 630 and 0 < each < sections:
        raise FormatError(
            f"{source.uri}: found {sections // each} volumes of {each} sections, "
            "expected one; split the stack",
            uri=source.uri,
        )


def _stored_axes(words: tuple[int, ...]) -> tuple[int, int, int]:
    """Axes of the volume (0 is z) in the order section, row, column of the file."""
    column, row, section = words[16:19]
    if sorted((column, row, section)) != [1, 2, 3]:
        # Zeros in old files; other values are damage that harms no voxel.
        return 0, 1, 2
    # The file's 1, 2, 3 are x, y, z; ours 0, 1, 2 are z, y, x.
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
        # IMOD's origin has the other sign unless this flag is set; both are in Å.
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
        # A header has room for 10 labels, whatever number it states.
        for at in range(224, 224 + 80 * max(0, min(words[55], 10)), 80)
    ]
    if any(labels):
        found["labels"] = tuple(label for label in labels if label)
    if order == ">":
        found["byte_order"] = "big"
    return found
