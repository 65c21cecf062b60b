"""The parts of an item's files that are here, so that none is fetched twice."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from em_platform.model.ingest import FetchedFile
from em_platform.storage.journal_file import JournalFile

NAME = "manifest.sqlite"
"""Beside the files, in the item's folder."""

State = Literal["partial", "whole", "bad"]

# Parts are found by name and place alone, and need no number of their own.
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    name TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    size_bytes INTEGER,
    etag TEXT NOT NULL,
    modified TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('partial', 'whole', 'bad')),
    sha256 TEXT NOT NULL DEFAULT '',
    md5 TEXT NOT NULL DEFAULT '',
    checked_against TEXT NOT NULL DEFAULT '',
    mtime_ns INTEGER
);
CREATE TABLE IF NOT EXISTS parts (
    name TEXT NOT NULL,
    start INTEGER NOT NULL,
    stop INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    PRIMARY KEY (name, start)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedFile:
    """What is known of one file.

    `size_bytes`, `etag` and `modified` are those that the server stated when it began.
    `mtime_ns` is of the whole file on our disk, `md5` is only taken where one is
    published. `checked_against` is as in FetchedFile.
    """

    name: str
    url: str
    size_bytes: int | None
    etag: str = ""
    modified: str = ""
    state: State = "partial"
    sha256: str = ""
    md5: str = ""
    checked_against: str = ""
    mtime_ns: int | None = None

    def fetched(self) -> FetchedFile:
        """The file as the item's record names it."""
        return FetchedFile(
            name=self.name,
            url=self.url,
            size_bytes=self.size_bytes or 0,
            sha256=self.sha256,
            etag=self.etag,
            modified=self.modified,
            checked_against=self.checked_against,
        )


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Bytes `start` to before `stop` of a file, which have been written."""

    start: int
    stop: int
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A file's size, what of it is still to come, and what of the disk that takes.

    The room for a file that has begun is taken already.
    """

    size_bytes: int
    to_come_bytes: int
    room_bytes: int


class Manifest:
    """The journal of one item's folder, to be used by many threads.

    A part is noted when the kernel has its bytes, and so outlives the process, however
    that ends. Not a power cut: then noted bytes may be lost, or notes of the last
    seconds. Syncing the disk at each part would prevent that and cost a multiple of the
    network's time on a fast one; instead the CRC-32 of each part is compared before the
    whole file is called whole, what was lost is fetched again, and the whole file is
    synced before it is noted as such.

    Raises
    ------
    StorageError
        It cannot be read or written.
    """

    def __init__(self, folder: Path, *, who: str) -> None:
        self._journal = JournalFile(
            folder / NAME,
            _TABLES,
            who=who,
            remedy="free space or check access, or delete the folder to fetch anew",
            without="delete the whole folder then, to fetch it anew",
            synchronous="NORMAL",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def files(self) -> tuple[SavedFile, ...]:
        """All files, by name."""
        rows = self._journal.ask("SELECT * FROM files ORDER BY name")
        return tuple(SavedFile(**dict(row)) for row in rows)

    def file(self, name: str) -> SavedFile | None:
        """What is known of a file; None where it has not begun."""
        rows = self._journal.ask("SELECT * FROM files WHERE name = ?", (name,))
        return SavedFile(**dict(rows[0])) if rows else None

    def parts(self, name: str) -> tuple[Part, ...]:
        """The finished parts of a file, by their place."""
        query = "SELECT start, stop, crc32 FROM parts WHERE name = ? ORDER BY start"
        return tuple(Part(*row) for row in self._journal.ask(query, (name,)))

    def begin(self, saved: SavedFile) -> None:
        """A file starts from nothing."""
        # One commit: parts of an older file never stand beside the new one.
        with self._journal.writing() as cursor:
            cursor.execute("DELETE FROM parts WHERE name = ?", (saved.name,))
            cursor.execute(
                "INSERT OR REPLACE INTO files (name, url, size_bytes, etag, modified, "
                "state) VALUES (?, ?, ?, ?, ?, 'partial')",
                (saved.name, saved.url, saved.size_bytes, saved.etag, saved.modified),
            )

    def go_on(self, saved: SavedFile) -> None:
        """A file goes on from another address, or with another ETag of the same."""
        with self._journal.writing() as cursor:
            cursor.execute(
                "UPDATE files SET url = ?, etag = ?, modified = ? WHERE name = ?",
                (saved.url, saved.etag, saved.modified, saved.name),
            )

    def add_part(self, name: str, part: Part) -> None:
        """A part of a file has been written."""
        with self._journal.writing() as cursor:
            cursor.execute(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)",
                (name, part.start, part.stop, part.crc32),
            )

    def forget_parts(self, name: str, parts: Iterable[Part]) -> None:
        """Parts that are not on the disk as they should be."""
        with self._journal.writing() as cursor:
            cursor.executemany(
                "DELETE FROM parts WHERE name = ? AND start = ?",
                [(name, part.start) for part in parts],
            )

    def end(self, saved: SavedFile) -> None:
        """A file is whole, or was renamed as bad; its parts are of no use now."""
        with self._journal.writing() as cursor:
            cursor.execute("DELETE FROM parts WHERE name = ?", (saved.name,))
            cursor.execute(
                "UPDATE files SET size_bytes = ?, state = ?, sha256 = ?, md5 = ?, "
                "checked_against = ?, mtime_ns = ? WHERE name = ?",
                (
                    *(saved.size_bytes, saved.state, saved.sha256, saved.md5),
                    *(saved.checked_against, saved.mtime_ns, saved.name),
                ),
            )
