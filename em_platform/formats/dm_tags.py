"""The tags of a DM3 or DM4 file, read by ncempy through our own ranged reads.

ncempy reads the tag tree, we choose in it. Its reader is fed from a `Source`, so that a
file behind a URL is looked at without fetching its pixels, and three of its limits are
lifted: it counts unnamed tags in eight bits (real tilt series have more than 127), it
maps the file into memory, and a damaged length makes it allocate what the length says.
"""

import sys
from collections.abc import Mapping
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from em_platform.errors import FormatError, PlatformError, ToolMissing
from em_platform.formats.source import Source

_WINDOW_BYTES = 1 << 16
_LONGEST_TAG_BYTES = 1 << 20
_MOST_READS = 3_000_000
# Real files have 16 or 20 and 24 bytes more; the last ones are padding.
_HEADER_BYTES = {3: 16, 4: 20}


def is_dm(source: Source) -> bool:
    """Whether the file claims to be DM3 or DM4."""
    start = source.read(0, 16)
    version = int.from_bytes(start[:4], "big")
    at = {3: 8, 4: 12}.get(version)
    marked = at is not None and start[at : at + 4] in (b"\0\0\0\1", b"\0\0\0\0")
    # A small big-endian MRC file begins with the same bytes.
    return marked and source.read(208, 4) != b"MAP "


def read_tags(source: Source) -> tuple[int, Mapping[str, Any]]:
    """The version (3 or 4) and all tags by their path, such as `.ImageList.2.Name`.

    Long arrays stay in the file: of `X` there are `X.arraySize` (bytes) and
    `X.arrayOffset`.

    Raises
    ------
    FormatError
        The file is cut short, damaged or of a big-endian computer.
    """
    version = _check_length(source)
    try:
        with np.errstate(all="ignore"):
            reader = _reader()(source)
    except PlatformError:
        raise
    except Exception as error:
        # What ncempy raises on damaged bytes is not documented: nearly anything.
        raise FormatError(
            f"{source.uri}: found a damaged DM{version} file ({_first_line(error)}), "
            "expected a whole tree of tags; copy it again from where it was made",
            uri=source.uri,
        ) from error
    return version, reader.allTags


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


class _Cursor:
    """A place in a file; what ncempy holds instead of an open one."""

    name = "file"
    closed = True

    def __init__(self, source: Source) -> None:
        self.source = source
        self.at = 0
        self.reads = 0
        self._start = 0
        self._window = b""

    def read(self, count: int) -> bytes:
        """The next bytes; all of them or FormatError."""
        self.reads += 1
        end = self.at + count
        if count > _LONGEST_TAG_BYTES or self.reads > _MOST_READS:
            raise ValueError(f"a tag of {count} bytes at {self.at}")
        if end > self.source.length:
            raise _cut_short(self.source, end)
        if not self._start <= self.at <= end <= self._start + len(self._window):
            self._start = self.at
            self._window = self.source.read(self.at, max(count, _WINDOW_BYTES))
        begin = self.at - self._start
        self.at = end
        return self._window[begin : begin + count]

    def move(self, offset: int) -> None:
        """Go on at an offset; one behind the end is promised, but not there."""
        if offset > self.source.length:
            raise _cut_short(self.source, offset)
        self.at = offset


@cache
def _reader() -> Any:
    """The reader of ncempy with our reading below it."""
    module = _ncempy_dm()

    class Reader(module.fileDM):  # type: ignore[name-defined,misc]
        __slots__ = ("cursor",)

        def __init__(self, source: Source) -> None:
            self.cursor = _Cursor(source)
            super().__init__(self.cursor)

        def parseHeader(self) -> None:  # noqa: N802
            for counter in ("_curGroupAtLevelX", "_curTagAtLevelX"):
                setattr(self, counter, np.zeros(self._maxDepth, np.int64))
            super().parseHeader()

        def fromfile(self, *_: Any, dtype: Any, count: Any) -> Any:
            kind = np.dtype(dtype)
            content = self.cursor.read(kind.itemsize * int(count))
            return np.frombuffer(content, kind, int(count))

        def seek(self, fid: Any, offset: Any, from_what: int = 0) -> None:
            self.cursor.move(int(offset) + (self.cursor.at if from_what == 1 else 0))

        def tell(self) -> int:
            return self.cursor.at

        @staticmethod
        def _bin2str(bin0: Any) -> str:
            coding = {1: "latin-1", 2: "utf-16-le"}.get(bin0.dtype.itemsize, "")
            if not coding:
                return "(not text)"
            return str(bin0.tobytes().decode(coding, "replace"))

    return Reader


def _ncempy_dm() -> ModuleType:
    """The module of ncempy for DM files, without its package.

    The package imports Matplotlib, h5py and all its algorithms: four seconds in each
    process that looks at a file. The module itself needs numpy alone.
    """
    name = "ncempy.io.dm"
    if name in sys.modules:
        return sys.modules[name]
    package = find_spec("ncempy")
    if package is None or package.origin is None:
        raise ToolMissing(
            "DM files: ncempy was not found, expected 1.16 or newer; install it"
        )
    path = Path(package.origin).parent / "io" / "dm.py"
    module = ModuleType("em_platform_ncempy_dm")
    SourceFileLoader(module.__name__, str(path)).exec_module(module)
    return module


def _cut_short(source: Source, expected: int) -> FormatError:
    return FormatError(
        f"{source.uri}: truncated DM file, found {source.length} bytes, expected at "
        f"least {expected}; copy it again from where it was made",
        uri=source.uri,
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
