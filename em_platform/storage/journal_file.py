"""One SQLite file in which a service keeps what it has received and done."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from em_platform.errors import StorageError, is_own_fault, one_line

# Another process that writes is waited for, not refused at once.
_BUSY_TIMEOUT_S = 30.0
_BUSY_PAUSE_S = 0.01  # a switch of the journal takes about a millisecond

Values = Sequence[Any] | Mapping[str, Any]


class JournalFile:
    """Safe to use from many threads of a process and from many processes.

    A change outlives the process when its block has ended; with `synchronous="FULL"`
    it outlives a power cut too. `who` keeps it, `remedy` ends the sentence about a file
    that cannot be used, `without` says what is lost with a damaged one.

    Raises
    ------
    StorageError
        The file cannot be read or written, or is damaged; nothing has changed then.
    """

    def __init__(
        self,
        path: Path,
        tables: str,
        *,
        who: str,
        remedy: str,
        without: str = "what it kept is lost",
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
    ) -> None:
        refuse_damaged(path, who=who, without=without)
        self._path = path
        self._who = who
        self._remedy = remedy
        # Reentrant: `ask` may be called inside of a `writing` block.
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        with self._plain_errors():
            self._connection = sqlite3.connect(
                path,
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,  # we say BEGIN ourselves
                check_same_thread=False,  # `_lock` keeps the threads apart
            )
            self._connection.row_factory = sqlite3.Row
            write_ahead(self._connection)
            self._connection.execute(f"PRAGMA synchronous={synchronous}")
            self._connection.executescript(tables)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def ask(self, query: str, values: Values = ()) -> list[sqlite3.Row]:
        """All rows that answer a query."""
        with self._plain_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Cursor]:
        """One commit: all that is written in the block, or nothing of it."""
        with self._plain_errors(), closing(self._connection.cursor()) as cursor:
            # The lock at once: after a read it may be refused (SQLITE_BUSY).
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it already
                    cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self._who}: its journal {self._path} could not be read or written "
            f"({error}); {self._remedy}",
            url=str(self._path),
        )


# 2.2 s a GB on one core: beyond that a service would start too late.
_CHECKED_WHOLE_BYTES = 500_000_000


def refuse_damaged(path: Path, *, who: str, without: str) -> None:
    """See that a file which is there is a whole SQLite database.

    Every page of it is read. Of a large file only the head and the schema: damage
    elsewhere is found when it is met.

    Raises
    ------
    StorageError
        It is damaged; the sentence tells how to go on, and what is lost (`without`).
    """
    if not path.is_file() or path.stat().st_size == 0:
        return
    whole = path.stat().st_size <= _CHECKED_WHOLE_BYTES
    query = "PRAGMA quick_check(1)" if whole else "SELECT 'ok' FROM sqlite_master"
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)) as connection:
            (found,) = connection.execute(query).fetchone() or ("ok",)
    except sqlite3.Error as error:
        # A lock says nothing of what the file holds.
        if is_own_fault(error):
            return
        found = str(error)
    if found != "ok":
        raise StorageError(
            f"{who}: its database {path} is damaged ({one_line(str(found))[:120]}), a "
            "whole SQLite file was expected; put a backup in its place, or move it "
            f"away with its -wal and -shm files: {without}",
            url=str(path),
        )


def write_ahead(connection: sqlite3.Connection) -> None:
    """Turn on the write-ahead log, which the file keeps.

    SQLite does not wait for a lock here, whatever its busy timeout is, when two
    connections open a new file at once (https://www.sqlite.org/wal.html#busy).
    """
    end = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(_BUSY_PAUSE_S)
