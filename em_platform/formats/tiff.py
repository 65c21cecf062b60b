"""TIFF: its header in one small read, plain strips straight off the disk.

Our own reading of the first directory (TIFF 6.0 and BigTIFF) costs a third of a
library's and is enough for what cameras write: one uncompressed grey image. All other
TIFFs are decoded by tifffile.
"""

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.source import Source
from em_platform.model import Box
from em_platform.storage import atomic

_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
_KINDS = {1: "u", 2: "i", 3: "f"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS = 256, 257, 258, 259, 273
_SAMPLES, _ROWS, _COUNTS, _PREDICTOR, _TILE_OFFSETS = 277, 278, 279, 317, 324
_TILE_COUNTS, _FORMAT = 325, 339
_NEEDED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _SAMPLES, _ROWS, _COUNTS} | {
    _TILE_OFFSETS,
    _TILE_COUNTS,
    _FORMAT,
    _PREDICTOR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffHeader:
    """What the first directory of a TIFF says."""

    height_px: int
    width_px: int
    samples: int
    dtype: str
    """numpy's name with byte order, such as `<u2`."""
    offset: int | None
    """Where the rows begin, when they lie plain and one after the other."""


def read_tiff_header(source: Source) -> TiffHeader:
    """Size, type and place of the first image.

    Raises
    ------
    FormatError
        Not a TIFF, or cut short: pixels are promised behind the file's end.
    """
    try:
        order, tags = _first_directory(source)
    except (struct.error, KeyError, IndexError) as error:
        raise _cut_short(source, "its directory is not there") from error
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise FormatError(f"{source.uri}: found no image in this TIFF; save it again")
    offsets = tags.get(_OFFSETS) or tags.get(_TILE_OFFSETS) or (0,)
    counts = tags.get(_COUNTS) or tags.get(_TILE_COUNTS) or (0,)
    end = max(o + n for o, n in zip(offsets, counts, strict=False))
    if end > source.length:
        raise _cut_short(source, f"{end} bytes were promised")
    bits, kind = tags.get(_BITS, (1,))[0], _KINDS.get(tags.get(_FORMAT, (1,))[0], "V")
    name = f"{kind}{bits // 8}" if bits in (8, 16, 32, 64) else f"{bits}-bit"
    return TiffHeader(
        height_px=tags[_HEIGHT][0],
        width_px=tags[_WIDTH][0],
        samples=tags.get(_SAMPLES, (1,))[0],
        dtype=(order if name[-1] != "1" else "|") + name,
        offset=_plain_offset(tags, offsets, counts, bits),
    )


def read_tiff(source: Source, box: Box | None = None) -> NDArray[Any]:
    """Pixels of the first image, `(h, w)`, or of `box` of it."""
    header = read_tiff_header(source)
    box = box or Box(y0=0, x0=0, y1=header.height_px, x1=header.width_px)
    if header.offset is None:
        return _decode(source)[box.y0 : box.y1, box.x0 : box.x1]
    dtype = np.dtype(header.dtype)
    rows = np.empty((box.y1 - box.y0, header.width_px), dtype)
    at = header.offset + box.y0 * rows.strides[0]
    if source.fill(at, rows.reshape(-1).view(np.uint8)) < rows.nbytes:
        raise _cut_short(source, f"{at + rows.nbytes} bytes were promised")
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
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, image, photometric="minisblack", metadata=None, software=False
    )
    return buffer.getvalue()


def _first_directory(source: Source) -> tuple[str, dict[int, tuple[int, ...]]]:
    start = source.read(0, 16)
    order = "<" if start[:2] == b"II" else ">"
    (version,) = struct.unpack(order + "H", start[2:4])
    if version == 42:
        (at,) = struct.unpack(order + "I", start[4:8])
        count_code, entry_size, inline = "H", 12, 4
    elif version == 43:
        (at,) = struct.unpack(order + "Q", start[8:16])
        count_code, entry_size, inline = "Q", 20, 8
    else:
        raise FormatError(f"{source.uri}: TIFF version {version} is not known")
    width = struct.calcsize(count_code)
    (entries,) = struct.unpack(order + count_code, source.read(at, width))
    table = source.read(at + width, entries * entry_size)
    if len(table) < entries * entry_size:
        raise _cut_short(source, "its directory is not there")
    tags: dict[int, tuple[int, ...]] = {}
    for place in range(0, len(table), entry_size):
        entry = table[place : place + entry_size]
        tag, kind = struct.unpack(order + "HH", entry[:4])
        if tag in _NEEDED and kind in _TYPES:
            tags[tag] = _values(source, entry, kind, order=order, inline=inline)
    return order, tags


def _values(
    source: Source, entry: bytes, kind: int, *, order: str, inline: int
) -> tuple[int, ...]:
    word = "I" if inline == 4 else "Q"
    (count,) = struct.unpack(order + word, entry[4 : 4 + inline])
    code = f"{order}{count}{_TYPES[kind]}"
    size = struct.calcsize(code)
    content = entry[4 + inline : 4 + inline + size]
    if size > inline:
        (at,) = struct.unpack(order + word, entry[4 + inline :])
        content = source.read(at, size)
    return struct.unpack(code, content)


def _plain_offset(
    tags: dict[int, tuple[int, ...]],
    offsets: tuple[int, ...],
    counts: tuple[int, ...],
    bits: int,
) -> int | None:
    ends = [o + n for o, n in zip(offsets, counts, strict=False)]
    size = tags[_WIDTH][0] * tags[_HEIGHT][0] * bits // 8
    plain = (
        tags.get(_COMPRESSION, (1,))[0] == 1
        and tags.get(_SAMPLES, (1,))[0] == 1
        and _OFFSETS in tags
        and bits in (8, 16, 32, 64)
        and list(offsets[1:]) == ends[:-1]
        and sum(counts) == size
    )
    return offsets[0] if plain else None


def _decode(source: Source) -> NDArray[Any]:
    import tifffile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with tifffile.TiffFile(io.BytesIO(source.all())) as file:
                return np.asarray(file.pages[0].asarray())
    except Exception as error:
        raise FormatError(
            f"{source.uri}: cannot be decoded ({error}), expected a grey TIFF; save it "
            "again without compression",
            uri=source.uri,
        ) from error


def _cut_short(source: Source, why: str) -> FormatError:
    return FormatError(
        f"{source.uri}: truncated TIFF, found {source.length} bytes, but {why}; copy "
        "it again from the microscope",
        uri=source.uri,
    )
