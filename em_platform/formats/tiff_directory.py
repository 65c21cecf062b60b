"""The directories of a TIFF, parsed by tifffile through ranged reads, without trust.

tifffile reads header, directories and tags; what it is given instead of a file reads
blocks of a local file or a URL and remembers the last ones, so that a directory costs
one or two small reads. The chain of directories is walked here and not by
`TiffFile.pages`: pages at equal distances are found without looking at each.
"""

import io
import logging
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.source import Places, Source

if TYPE_CHECKING:
    import tifffile

# What tifffile finds odd in a file it logs; here it is an error or of no importance.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_STORAGE = {256: 0, 257: 0, 258: 1, 259: 1, 262: 1, 266: 1, 277: 1, 284: 1, 317: 1} | {
    322: 0,
    323: 0,
    339: 1,
}
"""Tags that say how pixels are stored, and what their absence means."""
_SEGMENTS = {273, 279, 324, 325}
# No acquisition has so many pages; a damaged chain may be longer than any patience.
_MOST_PAGES = 1_000_000
# A page's directory and its lists are near each other; a request costs more than bytes.
_LOCAL_BLOCK_BYTES = 4096
_REMOTE_BLOCK_BYTES = 1 << 16
_BLOCKS = 16


class RangedFile(io.RawIOBase):
    """A source as an open file, read in blocks of which the last ones are kept."""

    def __init__(self, source: Source) -> None:
        self._source = source
        local = source.path is not None
        self._step = _LOCAL_BLOCK_BYTES if local else _REMOTE_BLOCK_BYTES
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        start = {0: 0, 1: self._at, 2: self._source.length}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer where the file ends."""
        at, length = self._at, self._source.length
        end = length if size < 0 else min(at + size, length)
        if end <= at:
            return b""
        self._at = end
        # So long a read would throw out all blocks.
        if end - at > _BLOCKS * self._step:
            return self._source.read(at, end - at)
        first, last = at // self._step, (end - 1) // self._step
        content = b"".join(self._block(number) for number in range(first, last + 1))
        return content[at - first * self._step : end - first * self._step]

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            at = number * self._step
            count = min(self._step, self._source.length - at)
            self._blocks[number] = self._source.read(at, count)
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]


@dataclass(frozen=True)
class Directory:
    """One directory: its place, its tags, where the next one is."""

    file: "TiffReader"
    page: "tifffile.TiffPage"
    offset: int
    following: int
    """Where the next directory is; 0 behind the last."""

    @property
    def source(self) -> Source:
        """The file."""
        return self.file.source

    def __contains__(self, code: int) -> bool:
        return code in self.page.tags

    def number(self, code: int, otherwise: int = 0) -> int:
        """The first value of a tag as a whole number."""
        value = self._value(code)
        value = value[0] if isinstance(value, tuple) and value else value
        return int(value) if isinstance(value, int) else otherwise

    def ratio(self, code: int) -> float:
        """The quotient that a tag holds; 0 where there is none."""
        value = self._value(code)
        if not isinstance(value, tuple) or len(value) < 2 or not value[1]:
            return 0.0
        return float(value[0]) / float(value[1])

    def text(self, code: int) -> str:
        """A tag's text up to its end mark; UTF-8, or else Latin-1."""
        content = self.content(code).split(b"\0")[0]
        try:
            return content.decode("utf-8").strip()
        except UnicodeDecodeError:
            return content.decode("latin-1").strip()

    def content(self, code: int) -> bytes:
        """The bytes of a tag's values, empty where there is none."""
        tag = self.page.tags.get(code)
        return (
            b"" if tag is None else self.file.read(tag.valueoffset, tag.valuebytecount)
        )

    @cached_property
    def uniform_key(self) -> tuple[object, ...]:
        """Equal for pages whose pixels are stored in the same way."""
        height = self.number(257)
        # Rows a strip: absent, endless or the page's height mean the same.
        rows = min(self.number(278, height) or height, height)
        tags = self.page.tags
        return (rows, *(tags.valueof(code, default=n) for code, n in _STORAGE.items()))

    @property
    def is_reduced(self) -> bool:
        """Whether it is a smaller copy of another page (TIFF 6.0, NewSubfileType)."""
        return bool(self.number(254) & 1)

    def _value(self, code: int) -> Any:
        return self.page.tags.valueof(code)


class TiffReader:
    """A TIFF whose directories are read one by one; for many threads.

    Raises
    ------
    FormatError
        Not a TIFF, or cut short.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        # Going to a place and reading are two steps on one handle.
        self._lock = threading.Lock()
        self._handle = RangedFile(source)
        start = source.read(0, 16)
        if len(start) < 16:
            raise cut_short(source, "its directory is not there")
        if not is_tiff(source):
            raise FormatError(
                f"{source.uri}: found a file that starts with {start[:4]!r}, expected "
                "TIFF; convert it",
                uri=source.uri,
            )
        # A third of a second to import; Dagster's processes load this module only.
        import tifffile

        try:
            self._file = tifffile.TiffFile(cast("IO[bytes]", self._handle))
        except Exception as error:
            # Of damaged bytes tifffile raises nearly anything.
            raise cut_short(source, "its directory is not there") from error
        self.order = self._file.byteorder
        self.big = self._file.is_bigtiff
        self._format = self._file.tiff
        at = start[8:16] if self.big else start[4:8]
        (self._first,) = struct.unpack(self._format.offsetformat, at)

    def read(self, at: int, count: int) -> bytes:
        """`count` bytes from `at`; fewer where the file ends."""
        with self._lock:
            self._handle.seek(at)
            return self._handle.read(count)

    def tables(self, places: Places, *, tags: int) -> NDArray[Any]:
        """Directories of so many tags at these places as they are stored, `(n,)`."""
        wide = f"{self.order}u{8 if self.big else 4}"
        short = f"{self.order}u2"
        tag = np.dtype([("code", short), ("kind", short), ("count", wide),
                        ("value", wide)])  # fmt: skip
        table = [("number", wide if self.big else short), ("tags", tag, (tags,)),
                 ("following", wide)]  # fmt: skip
        return self.pieces(places, np.dtype(table))

    def pieces(self, places: Places, dtype: np.dtype[Any]) -> NDArray[Any]:
        """One value of a type from each place; FormatError where the file ends."""
        return np.frombuffer(self.source.read_each(places, dtype.itemsize), dtype)

    def directories(self) -> Iterator[Directory]:
        """All directories of the chain, each read when it is asked for.

        Raises
        ------
        FormatError
            A directory is behind the file's end, or the chain bites its tail.
        """
        at, seen = self._first, set[int]()
        while at:
            if at in seen or len(seen) >= _MOST_PAGES:
                raise FormatError(
                    f"{self.source.uri}: found a directory of this TIFF twice, "
                    "expected an end; save it again",
                    uri=self.source.uri,
                )
            seen.add(at)
            directory = self.directory(at)
            yield directory
            at = directory.following

    def directory(self, at: int) -> Directory:
        """The directory at a place in the file."""
        form, source = self._format, self.source
        head = self.read(at, form.tagnosize)
        if len(head) < form.tagnosize:
            raise cut_short(source, f"a directory is promised at {at}")
        (count,) = struct.unpack(form.tagnoformat, head)
        size = count * form.tagsize + form.offsetsize
        # A damaged count may promise more than the file has.
        table = self.read(at + form.tagnosize, min(size, source.length))
        if len(table) < size:
            raise cut_short(source, f"a directory ends at {at + form.tagnosize + size}")
        (following,) = struct.unpack(form.offsetformat, table[-form.offsetsize :])
        codes = np.frombuffer(
            table, {"names": ["code"], "formats": [f"{self.order}u2"], "offsets": [0],
                    "itemsize": form.tagsize}, count,
        )["code"]  # fmt: skip
        page = self._page(at)
        # tifffile leaves out a tag whose values are not in the file.
        lost = {int(code) for code in codes} & (_SEGMENTS | set(_STORAGE)) - set(
            page.tags.keys()
        )
        if lost:
            raise cut_short(source, f"the values of tag {min(lost)} are not there")
        return Directory(file=self, page=page, offset=at, following=following)

    def _page(self, at: int) -> "tifffile.TiffPage":
        first = self._file.pages.first
        if first.offset == at:
            return first
        import tifffile

        with self._lock:
            self._handle.seek(at)
            try:
                return tifffile.TiffPage(self._file, index=0)
            except Exception as error:
                raise FormatError(
                    f"{self.source.uri}: found a damaged directory at {at} of this "
                    f"TIFF ({error}), expected its tags; save it again",
                    uri=self.source.uri,
                ) from error


def is_tiff(source: Source) -> bool:
    """Whether the file claims to be a TIFF."""
    return source.read(0, 4) in TIFF_STARTS


def cut_short(source: Source, why: str) -> FormatError:
    """The error for a TIFF that ends before what it promises."""
    return FormatError(
        f"{source.uri}: truncated TIFF, found {source.length} bytes, but {why}; copy "
        "it again from where it was made",
        uri=source.uri,
    )
