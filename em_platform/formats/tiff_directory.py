"""The directories of a TIFF: which tags it has, read lazily and without trust.

TIFF 6.0 and BigTIFF. A directory is one or two small reads; the values of a tag are
read when asked for, and never more than the file holds.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.source import Source

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_TYPES = {
    1: "u1",
    2: "S1",
    3: "u2",
    4: "u4",
    5: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    10: "i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_RATIONAL = {5, 10}
_STORAGE = {256: 0, 257: 0, 258: 1, 259: 1, 262: 1, 266: 1, 277: 1, 284: 1, 317: 1} | {
    322: 0,
    323: 0,
    339: 1,
}
"""Tags that say how pixels are stored, and what their absence means."""
_MOST_TAGS = 4096
_MOST_PAGES = 1_000_000
# A page's directory and its lists are near each other; a request costs more than bytes.
_LOCAL_BLOCK_BYTES = 4096
_REMOTE_BLOCK_BYTES = 1 << 16
_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: int
    count: int
    content: bytes
    """The bytes of the values, or those of the place where they are."""


class Window:
    """The bytes of a file, read in blocks of which the last ones are remembered."""

    def __init__(self, source: Source) -> None:
        self.source = source
        local = source.path is not None
        self._step = _LOCAL_BLOCK_BYTES if local else _REMOTE_BLOCK_BYTES
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def read(self, at: int, count: int) -> bytes:
        """`count` bytes from `at`; fewer where the file ends."""
        end = min(at + count, self.source.length)
        if end - at > _BLOCKS * self._step:
            return self.source.read(at, end - at)
        first, last = at // self._step, max(at, end - 1) // self._step
        content = b"".join(self._block(number) for number in range(first, last + 1))
        return content[at - first * self._step : max(at, end) - first * self._step]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            at = number * self._step
            count = max(0, min(self._step, self.source.length - at))
            self._blocks[number] = self.source.read(at, count) if count else b""
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]


@dataclass(frozen=True)
class Directory:
    """One directory: its place, the tags that it has, where the next one is."""

    window: Window
    order: str
    big: bool
    offset: int
    entries: dict[int, _Entry]
    following: int
    """Where the next directory is; 0 behind the last."""

    @property
    def source(self) -> Source:
        """The file."""
        return self.window.source

    def __contains__(self, code: int) -> bool:
        return code in self.entries

    def numbers(self, code: int) -> NDArray[Any]:
        """All values of a tag; of a ratio its quotient. Empty where there is none."""
        entry = self.entries.get(code)
        if entry is None or entry.kind not in _TYPES:
            return np.empty(0)
        values: NDArray[Any] = np.frombuffer(
            self.content(code), self.order + _TYPES[entry.kind]
        )
        if entry.kind in _RATIONAL:
            above, below = values[0::2].astype(float), values[1::2].astype(float)
            values = np.divide(above, below, out=np.zeros_like(above), where=below != 0)
        return values

    def number(self, code: int, otherwise: int = 0) -> int:
        """The first value of a tag as a whole number."""
        values = self.numbers(code)
        return (
            int(values[0]) if values.size and values.dtype.kind in "iu" else otherwise
        )

    def text(self, code: int) -> str:
        """A tag's text up to its end mark; UTF-8, or else Latin-1."""
        if code not in self.entries:
            return ""
        content = self.content(code).split(b"\0")[0]
        try:
            return content.decode("utf-8").strip()
        except UnicodeDecodeError:
            return content.decode("latin-1").strip()

    def content(self, code: int) -> bytes:
        """The bytes of a tag's values, empty where there is none.

        Raises
        ------
        FormatError
            They are promised behind the file's end.
        """
        entry = self.entries.get(code)
        if entry is None:
            return b""
        size = _size(entry)
        if size <= len(entry.content):
            return entry.content[:size]
        (at,) = struct.unpack(
            self.order + ("Q" if self.big else "I"),
            entry.content[: 8 if self.big else 4],
        )
        if at + size > self.source.length:
            raise cut_short(self.source, f"tag {code} ends at {at + size}")
        return self.window.read(at, size)

    @cached_property
    def uniform_key(self) -> tuple[object, ...]:
        """Equal for pages whose pixels are stored in the same way."""
        height = self.number(257)
        rows = min(self.number(278, height) or height, height)
        values = [
            tuple(self.numbers(code).tolist()) or (default,)
            for code, default in _STORAGE.items()
        ]
        return (rows, *values)


def is_tiff(source: Source) -> bool:
    """Whether the file claims to be a TIFF."""
    return source.read(0, 4) in TIFF_STARTS


def directories(source: Source) -> Iterator[Directory]:
    """All directories of the chain, each read when it is asked for.

    Raises
    ------
    FormatError
        A directory lies behind the file's end, or the chain bites its tail.
    """
    order, big, at = _first(source)
    window = Window(source)
    seen: set[int] = set()
    while at:
        if at in seen or len(seen) >= _MOST_PAGES:
            raise FormatError(
                f"{source.uri}: found a directory of this TIFF twice, expected an end; "
                "save it again",
                uri=source.uri,
            )
        seen.add(at)
        directory = read_directory(window, at, order=order, big=big)
        yield directory
        at = directory.following


def read_directory(window: Window, at: int, *, order: str, big: bool) -> Directory:
    """The directory at a place in the file."""
    source = window.source
    count_code, entry_size, word = ("Q", 20, "Q") if big else ("H", 12, "I")
    width, pointer = struct.calcsize(count_code), struct.calcsize(word)
    head = window.read(at, width)
    if len(head) < width:
        raise cut_short(source, f"a directory is promised at {at}")
    (count,) = struct.unpack(order + count_code, head)
    if count > _MOST_TAGS:
        raise FormatError(
            f"{source.uri}: found a directory of {count} tags in this TIFF, expected "
            f"at most {_MOST_TAGS}; save it again",
            uri=source.uri,
        )
    size = width + count * entry_size + pointer
    table = window.read(at, size)
    if len(table) < size:
        raise cut_short(source, f"a directory ends at {at + size}")
    entries: dict[int, _Entry] = {}
    for place in range(width, width + count * entry_size, entry_size):
        code, kind = struct.unpack_from(order + "HH", table, place)
        (values,) = struct.unpack_from(order + word, table, place + 4)
        content = table[place + 4 + pointer : place + entry_size]
        entries.setdefault(code, _Entry(kind, values, content))
    (following,) = struct.unpack_from(order + word, table, size - pointer)
    return Directory(window, order, big, at, entries, following)


def cut_short(source: Source, why: str) -> FormatError:
    """The error for a TIFF that ends before what it promises."""
    return FormatError(
        f"{source.uri}: truncated TIFF, found {source.length} bytes, but {why}; copy "
        "it again from where it was made",
        uri=source.uri,
    )


def _first(source: Source) -> tuple[str, bool, int]:
    start = source.read(0, 16)
    order = "<" if start[:2] == b"II" else ">"
    if len(start) < 16:
        raise cut_short(source, "its directory is not there")
    if not is_tiff(source):
        raise FormatError(
            f"{source.uri}: found a file that starts with {start[:4]!r}, expected TIFF"
            "; convert it",
            uri=source.uri,
        )
    big = start[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack(
        order + ("Q" if big else "I"), start[8:16] if big else start[4:8]
    )
    return order, big, at


def _size(entry: _Entry) -> int:
    if entry.kind not in _TYPES:
        return 0
    pair = 2 if entry.kind in _RATIONAL else 1
    return entry.count * np.dtype(_TYPES[entry.kind]).itemsize * pair
