"""Bytes of a file by range, on disk or behind any fsspec URL."""

import io
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from em_platform.config.reading import check_regular
from em_platform.errors import FormatError, PlatformError, is_own_fault
from em_platform.formats import remote
from em_platform.formats.header_values import MOST_BYTES, unzip_to_limit
from em_platform.formats.remote import missing, not_served
from em_platform.storage.layout import StorageOptions

Places = Sequence[int] | NDArray[np.integer[Any]]
"""Offsets in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file: where it is, how long it is, and any range of its bytes."""

    uri: str
    length: int
    path: str | None = None
    """Local path; None where the file is behind a URL."""
    options: StorageOptions = field(default_factory=dict, repr=False)
    first: bytes = field(default=b"", repr=False)
    """The file's first bytes, or all of them."""

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`; fewer where the file ends."""
        if offset + count <= len(self.first) or len(self.first) == self.length:
            return self.first[offset : offset + count]
        if self.path is not None:
            return _read_local(self.path, offset, count)
        return remote.read(self.uri, offset, count, self.options)

    def read_each(self, places: Places, count: int) -> NDArray[np.uint8]:
        """`count` bytes from each place, `(n, count)`; behind a URL many at once.

        Raises
        ------
        FormatError
            The file ends before one of them does.
        """
        found = np.empty((len(places), count), np.uint8)
        if self.path is None and len(self.first) < self.length:
            _fill_remote(self, places, found)
            return found
        with filling(self) as fill:
            for place, row in zip(places, found, strict=True):
                fill(int(place), row)
        return found

    def all(self) -> bytes:
        """The whole file."""
        return self.read(0, self.length)


def open_source(
    uri: str, options: StorageOptions | None = None, *, whole: bool = False
) -> Source:
    """Look at a file's length and first bytes; with `whole`, hold all of a remote file.

    Raises
    ------
    FormatError
        There is no such file, it may not be read, or it is empty.
    """
    path = local_path(uri)
    if path is not None:
        return _checked(_open_local(uri, path))
    length, first = remote.look(uri, options or {}, whole=whole)
    found = Source(uri=uri, length=length, options=options or {}, first=first)
    return _checked(found)


def local_path(uri: str) -> str | None:
    """The path of a plain path or `file://` URL; None for other URLs."""
    if "://" not in uri:
        return uri
    if uri.startswith("file://"):
        rest = uri.removeprefix("file://")
        # A plain path behind file:// may have a % in it.
        return unquote(rest) if not os.path.exists(rest) else rest
    return None


def join_uri(folder: str, name: str) -> str:
    """`name` inside `folder`, both paths or URLs; a name that is whole stays."""
    if "://" in name or name.startswith("/"):
        return name
    if "://" in folder:
        return f"{folder.rstrip('/')}/{name}"
    return str(Path(folder) / name)


def is_folder(uri: str, options: StorageOptions | None = None) -> bool:
    """Whether something can be listed at `uri`."""
    path = local_path(uri)
    if path is not None:
        return os.path.isdir(path)
    return remote.is_folder(uri, options or {})


def list_folder(uri: str, options: StorageOptions | None = None) -> list[str]:
    """Names of the files in a folder, sorted; hidden and half-written ones left out.

    Raises
    ------
    StorageError
        The folder may not be read.
    """
    path = local_path(uri)
    if path is None:
        names = remote.list_files(uri, options or {})
    else:
        try:
            names = os.listdir(path)
        except OSError as error:
            raise remote.not_served(uri, error) from error
    return sorted(name for name in names if not name.startswith("."))


def read_text(uri: str, options: StorageOptions | None = None) -> str:
    """A text file, unpacked where its name ends in `.gz`."""
    source = open_source(uri, options, whole=True)
    content = source.all() if source.length <= MOST_BYTES else None
    try:
        # gzip raises EOFError of a file that is cut short.
        if content is not None and uri.endswith(".gz"):
            content = unzip_to_limit(content)
        if content is None:
            does = "unpacks to" if uri.endswith(".gz") else "has"
            raise FormatError(
                f"{uri}: {does} more than {MOST_BYTES} bytes of text, expected a list "
                "of tiles; split it",
                uri=uri,
            )
        # Windows programs begin a text with a byte order mark.
        return content.decode("utf-8-sig")
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise FormatError(
            f"{uri}: found bytes that are not text ({error}), expected a list of "
            "tiles; save it as UTF-8",
            uri=uri,
        ) from error


def _checked(source: Source) -> Source:
    if source.length == 0:
        raise FormatError(
            f"{source.uri}: found 0 bytes, expected content; copy it again from where "
            "it was made",
            uri=source.uri,
        )
    return source


def _open_local(uri: str, path: str) -> Source:
    try:
        check_regular(path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            length = os.fstat(descriptor).st_size
            first = os.pread(descriptor, 1024, 0)  # an MRC's whole header
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise missing(uri, "found no such file") from error
    except OSError as error:
        raise _unread(uri, error) from error
    except ValueError as error:  # such as of a name with a NUL
        raise missing(uri, f"cannot be read ({error})") from error
    return Source(uri=uri, length=length, path=path, first=first)


def _unread(uri: str, error: OSError) -> PlatformError:
    """Of the file, unless this computer fails: that says nothing of what it holds."""
    if is_own_fault(error):
        return not_served(uri, error)
    return missing(uri, f"cannot be read ({error.strerror})")


def _read_local(path: str, offset: int, count: int) -> bytes:
    # pread and not mmap: a file that shrinks under a memory map kills the process.
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return os.pread(descriptor, count, offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unread(path, error) from error


def _fill_remote(source: Source, places: Places, found: NDArray[np.uint8]) -> None:
    count = found.shape[1]
    first, end = int(min(places)), int(max(places)) + count
    # What lies close together is one request.
    if end - first <= min(len(places) * remote.FIRST_BYTES, _REMOTE_BYTES):
        content = source.read(first, end - first)
        contents = [content[int(p) - first :][:count] for p in places]
    else:
        starts = [int(place) for place in places]
        contents = remote.read_each(source.uri, starts, count, source.options)
    for row, content in zip(found, contents, strict=True):
        if len(content) != count:
            raise _ended(source, end)
        row[:] = np.frombuffer(content, np.uint8)


Fill = Callable[[int, NDArray[Any]], None]
"""Puts the bytes from an offset into a contiguous array."""

# Linux gives at most 2 GiB at once; a store is asked for less.
_LOCAL_BYTES = 1 << 30
_REMOTE_BYTES = 1 << 26


@contextmanager
def filling(source: Source) -> Iterator[Fill]:
    """A function that fills arrays with bytes of the file, straight off the disk.

    It raises FormatError where the file ends too early: it was longer when it was
    opened.
    """
    if source.path is None or len(source.first) == source.length:
        yield lambda offset, array: _fill_from(source, offset, array)
        return
    try:
        descriptor = os.open(source.path, os.O_RDONLY)
    except OSError as error:
        raise _unread(source.uri, error) from error
    try:
        yield lambda offset, array: _pread(descriptor, source, offset, array)
    finally:
        os.close(descriptor)


def _pread(descriptor: int, source: Source, offset: int, array: NDArray[Any]) -> None:
    content = array.reshape(-1).view(np.uint8)
    done = 0
    while done < content.nbytes:
        part = content[done : done + _LOCAL_BYTES]
        try:
            count = os.preadv(descriptor, [part.data], offset + done)
        except OSError as error:
            raise _unread(source.uri, error) from error
        if count == 0:
            raise _ended(source, offset + content.nbytes)
        done += count


def _fill_from(source: Source, offset: int, array: NDArray[Any]) -> None:
    content = array.reshape(-1).view(np.uint8)
    for done in range(0, content.nbytes, _REMOTE_BYTES):
        part = content[done : done + _REMOTE_BYTES]
        found = source.read(offset + done, part.nbytes)
        if len(found) < part.nbytes:
            raise _ended(source, offset + content.nbytes)
        part[:] = np.frombuffer(found, np.uint8)


def _ended(source: Source, expected: int) -> FormatError:
    return FormatError(
        f"{source.uri}: truncated, found an end before byte {expected}, which its "
        "header promises; copy it again from where it was made",
        uri=source.uri,
    )


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
