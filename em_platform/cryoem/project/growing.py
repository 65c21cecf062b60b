"""A table that grows at its end, and an index of what stands where in it.

A long table is written whole once and then only added to, so that a micrograph costs
the same at the end of a session as at its beginning. No line crosses a page of the
file, and each page is one call of the system: whoever reads at the same time, or after
the writer was killed, finds whole lines. Spaces fill the pages; readers skip them.

The index stands beside the table, hidden. It counts only as long as it is not older
than the table and ends where the table ends: whatever another program changes, or a
killed process did not finish, makes the next writer read the whole table.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from em_platform.errors import StorageError
from em_platform.storage.atomic import write_bytes

# Of Linux on all that we know; pages of 16 and 64 KiB consist of these.
_PAGE = 4096
# A shorter table is read and written whole in no time.
_LEAST_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Lines of one group that stand one behind the other."""

    group: str
    first: int
    """Number of the first line, from 0."""
    lines: int
    begin: int
    """Bytes of the file before it."""
    end: int

    def encoded(self) -> bytes:
        """Its line in the index."""
        numbers = (self.first, self.lines, self.begin, self.end)
        return f"{' '.join(map(str, numbers))}\t{self.group}\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Where the lines of each group stand in a table."""

    path: Path
    """Of the table."""
    head: bytes
    """What stands before the lines."""
    columns: tuple[str, ...]
    content: bytes
    """Its own text, without the first line."""

    @property
    def last(self) -> Run:
        """Behind which the table ends."""
        return _run(self.content, len(self.content) - 1)

    @property
    def first_group(self) -> str:
        """The group of the first line."""
        return _run(self.content, 0).group

    def runs(self, group: str) -> Iterator[Run]:
        """Where the lines of a group are."""
        wanted = f"\t{group}\n".encode()
        at = self.content.find(wanted)
        while at >= 0:
            yield _run(self.content, at)
            at = self.content.find(wanted, at + 1)

    def lines(self, run: Run) -> list[str]:
        """The lines themselves."""
        with self.path.open("rb") as file:
            file.seek(run.begin)
            text = file.read(run.end - run.begin).decode()
        return [line.strip() for line in text.splitlines()]


Grouped = Iterable[tuple[str, str]]
"""Lines behind the group of each."""


def read_index(path: Path) -> Index | None:
    """The index of a table; None where there is none that counts."""
    own = _index_of(path)
    try:
        first, _, content = own.read_bytes().partition(b"\n")
        table = path.stat()
        if own.stat().st_mtime_ns < table.st_mtime_ns or not content.endswith(b"\n"):
            return None
        head = json.loads(first)
        index = Index(
            path=path,
            head=head["head"].encode(),
            columns=tuple(head["columns"]),
            content=content,
        )
        return index if index.last.end == table.st_size else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_table(path: Path, head: str, columns: Sequence[str], lines: Grouped) -> None:
    """Write a table whole, and its index where it is long."""
    begin = head.encode()
    runs, body = _laid_out(lines, first=0, at=len(begin))
    write_bytes(path, begin + body)
    if len(body) >= _LEAST_BYTES:
        first = json.dumps({"head": head, "columns": list(columns)}).encode()
        index = b"".join(run.encoded() for run in runs)
        write_bytes(_index_of(path), first + b"\n" + index)
    else:
        _index_of(path).unlink(missing_ok=True)


def fits(lines: Iterable[str]) -> bool:
    """Whether lines can be added to a table: each has room in a page."""
    return all(len(each.encode()) < _PAGE for each in lines)


def add_lines(index: Index, lines: Grouped) -> None:
    """Put lines at the end of a table, each of which `fits`.

    Raises
    ------
    StorageError
        The disk is full, or the like; the table is as it was.
    """
    end = index.last
    runs, body = _laid_out(lines, first=end.first + end.lines, at=end.end)
    try:
        _append(index.path, body, at=end.end)
        _append(_index_of(index.path), b"".join(run.encoded() for run in runs), at=0)
    except OSError as error:
        raise StorageError(
            f"storage: {index.path} could not be written ({error.strerror or error}); "
            "free space or check access, then run again",
            url=str(index.path),
        ) from error


def _index_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.index")


def _run(content: bytes, at: int) -> Run:
    """The run in whose line of the index the byte stands."""
    begin = content.rfind(b"\n", 0, at) + 1
    line = content[begin : content.index(b"\n", at)].decode()
    numbers, _, group = line.partition("\t")
    first, lines, start, end = map(int, numbers.split())
    return Run(group=group, first=first, lines=lines, begin=start, end=end)


def _laid_out(lines: Grouped, *, first: int, at: int) -> tuple[list[Run], bytes]:
    runs, body = [], bytearray()
    for group, some in groupby(lines, key=lambda each: each[0]):
        count, begin = 0, at + len(body)
        for _, line in some:
            encoded = line.encode() + b"\n"
            room = _PAGE - (at + len(body)) % _PAGE
            body += b" " * (room if room < len(encoded) else 0) + encoded
            count += 1
        end = at + len(body)
        runs.append(Run(group=group, first=first, lines=count, begin=begin, end=end))
        first += count
    return runs, bytes(body)


def _append(path: Path, content: bytes, *, at: int) -> None:
    """Add to a file, at which offset `at` its pages are counted from, page by page."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    try:
        before = os.fstat(file).st_size
        try:
            while content:
                part = content[: _PAGE - at % _PAGE]
                written = os.write(file, part)
                # A disk that fills up takes a part; the next call says why.
                at, content = at + written, content[written:]
            os.fsync(file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, before)
            raise
    finally:
        os.close(file)
