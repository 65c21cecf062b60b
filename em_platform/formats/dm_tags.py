"""The tags of a DM3 or DM4 file, read through ranged reads and without trust.

A file is a tree of groups (kind 20) and values (kind 21), names and counts big-endian,
values little-endian. A value has a list of words in front that says its type; of long
arrays, such as pixels, only the place is kept. Sources: the descriptions of DM3 by Greg
Jefferis and Chris Boothroyd, and rosettasciio's of DM4. ncempy reads the same tags, but
maps the file into memory, counts unnamed tags in eight bits (real tilt series have more
than 127), allocates what a damaged length says, and its package takes four seconds to
import; to make it read ranges it had to be taken apart.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from em_platform.errors import FormatError, PlatformError
from em_platform.formats.source import Source

TagValue = int | float | str

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


def read_tags(source: Source) -> tuple[int, Mapping[str, TagValue]]:
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
