"""DM3 and DM4 files of DigitalMicrograph as volumes.

The image is the first that is no thumbnail; the names of others stand in the tags.
"""

import struct
from dataclasses import dataclass, field
from math import prod

import numpy as np

from em_platform.errors import FormatError, PlatformError
from em_platform.formats.dm_images import (
    DmImage,
    DmTags,
    TagValue,
    images_of,
    tags_of,
    voxel_size_of,
)
from em_platform.formats.source import Source
from em_platform.formats.volume import PlainVolume
from em_platform.model.volume import VolumeInfo

_WINDOW_BYTES = 1 << 16
# Names, texts and lists of types; longer ones are damage.
_LONGEST_BYTES = 1 << 20
_LONGEST_TEXT_BYTES = 1000  # longer arrays of characters are no texts
# Real files have some thousands of tags, nine levels deep.
_MOST_TAGS = 1_000_000
_DEEPEST = 64
# Real files have 16 or 20 and 24 bytes more; the last ones are padding.
_HEADER_BYTES = {3: 16, 4: 20}
_GROUP, _VALUE = 20, 21
_STRUCT, _STRING, _ARRAY = 15, 18, 20
_NUMBERS = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "B", 9: "b", 10: "B"} | {
    11: "q",
    12: "Q",
}
_TEXT_CODINGS = {4: "utf-16-le", 9: "latin-1", 10: "latin-1"}


def is_dm(source: Source) -> bool:
    """Whether the file claims to be DM3 or DM4."""
    start = source.read(0, 16)
    version = int.from_bytes(start[:4], "big")
    at = {3: 8, 4: 12}.get(version)
    marked = at is not None and start[at : at + 4] in (b"\0\0\0\1", b"\0\0\0\0")
    # A small big-endian MRC file begins with the same bytes.
    return marked and source.read(208, 4) != b"MAP "


def read_tags(source: Source) -> tuple[int, DmTags]:
    """The version (3 or 4) and all tags by their path, such as `.ImageList.2.Name`.

    Tags without a name are counted from 1. Long arrays stay in the file: of `X` there
    are `X.arraySize` (bytes) and `X.arrayOffset`.

    Raises
    ------
    FormatError
        The file is cut short, damaged or of a big-endian computer.
    """
    version = _check_length(source)
    tree = _Tree(source, version)
    try:
        tree.group("", _DEEPEST)
    except PlatformError:
        raise
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise FormatError(
            f"{source.uri}: found a damaged DM{version} file ({error}), expected a "
            "whole tree of tags; copy it again from where it was made",
            uri=source.uri,
        ) from error
    return version, tree.tags


def _check_length(source: Source) -> int:
    start = source.read(0, 16)
    version = int.from_bytes(start[:4], "big")
    if len(start) < 16:
        raise _cut_short(source, 16)
    words = slice(4, 8) if version == 3 else slice(4, 12)
    if start[words.stop : words.stop + 4] != b"\0\0\0\1":
        raise FormatError(
            f"{source.uri}: found DM{version} in the byte order of old Macintoshes, "
            "expected that of a PC; save it again with DigitalMicrograph",
            uri=source.uri,
        )
    promised = int.from_bytes(start[words], "big") + _HEADER_BYTES[version]
    if promised > source.length:
        raise _cut_short(source, promised)
    return version


@dataclass
class _Tree:
    """A place in a file, and the tags that were found up to there."""

    source: Source
    version: int
    tags: dict[str, TagValue] = field(default_factory=dict)
    count: int = 0
    _start: int = 0
    _window: bytes = b""

    def __post_init__(self) -> None:
        self.at = 12 if self.version == 3 else 16
        self._word = ">I" if self.version == 3 else ">Q"

    def group(self, path: str, deepest: int) -> None:
        """All tags of a group, whose header is next."""
        if not deepest:
            raise ValueError(f"groups deeper than {_DEEPEST}")
        self._take(2)  # whether it is sorted, and open
        for number in range(1, self._number(self._word) + 1):
            self.count += 1
            if self.count > _MOST_TAGS:
                raise ValueError(f"more than {_MOST_TAGS} tags")
            kind = self._take(1)[0]
            name = self._take(self._number(">H")).decode("latin-1") or str(number)
            if self.version == 4:
                self._take(8)  # the length of what follows
            if kind == _GROUP:
                self.group(f"{path}.{name}", deepest - 1)
            elif kind == _VALUE:
                self._value(f"{path}.{name}")
            else:
                raise ValueError(f"a tag of kind {kind} at {self.at}")

    def _value(self, path: str) -> None:
        if self._take(4) != b"%%%%":
            raise ValueError(f"a tag without its mark at {self.at}")
        size = struct.calcsize(self._word)
        words = self._take(self._number(self._word) * size)
        kind, *form = (word for (word,) in struct.iter_unpack(self._word, words))
        if kind == _ARRAY:
            self._array(path, form)
        elif kind == _STRUCT:
            self._skip(self._bytes_of(kind, form))
        elif kind == _STRING:
            self.tags[path] = self._take(form[0]).decode("latin-1")
        else:
            self.tags[path] = self._number(f"<{_NUMBERS[kind]}")

    def _array(self, path: str, form: list[int]) -> None:
        """`form`: the type of an element, of a struct also its fields, and a count."""
        size = form[-1] * self._bytes_of(form[0], form[1:-1])
        text = size < _LONGEST_TEXT_BYTES and not path.endswith("ImageData.Data")
        if text and form[0] in _TEXT_CODINGS:
            content = self._take(size)
            self.tags[path] = content.decode(_TEXT_CODINGS[form[0]], "replace")
            return
        self.tags[f"{path}.arraySize"] = size
        self.tags[f"{path}.arrayOffset"] = self.at
        self._skip(size)

    def _bytes_of(self, kind: int, form: list[int]) -> int:
        if kind != _STRUCT:
            return struct.calcsize(f"<{_NUMBERS[kind]}")
        # Length of the name, number of fields; then length of name and type of each.
        types = form[3::2]
        if len(types) != form[1]:
            raise ValueError(f"a struct of {form[1]} fields with {len(types)} types")
        return sum(self._bytes_of(each, []) for each in types)

    def _number(self, code: str) -> int:
        (value,) = struct.unpack(code, self._take(struct.calcsize(code)))
        return value  # type: ignore[no-any-return]

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if count > _LONGEST_BYTES:
            raise ValueError(f"a tag of {count} bytes at {self.at}")
        if end > self.source.length:
            raise _cut_short(self.source, end)
        if not self._start <= self.at <= end <= self._start + len(self._window):
            self._start = self.at
            self._window = self.source.read(self.at, max(count, _WINDOW_BYTES))
        begin, self.at = self.at - self._start, end
        return self._window[begin : begin + count]

    def _skip(self, count: int) -> None:
        if self.at + count > self.source.length:
            raise _cut_short(self.source, self.at + count)
        self.at += count


def _cut_short(source: Source, expected: int) -> FormatError:
    return FormatError(
        f"{source.uri}: truncated DM file, found {source.length} bytes, expected at "
        f"least {expected}; copy it again from where it was made",
        uri=source.uri,
    )


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
