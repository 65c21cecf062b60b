"""The events' table: SQLite by default, PostgreSQL by URL.

Sequence numbers appear in order: a reader that has seen `seq` never meets a smaller
one later. Two writers could commit out of order, so there is one at a time: SQLite's
write lock, or an advisory lock in PostgreSQL that is held until the commit is visible.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    func,
    inspect,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, SQLAlchemyError

from em_platform.acquisition.frame_paths import owner_of
from em_platform.acquisition.recorder.events import (
    RAW,
    RESULTS,
    Event,
    Message,
    event_of,
    row_of,
)
from em_platform.errors import RecordError, StorageError
from em_platform.messaging.topics import Body, shortened
from em_platform.storage.database import engine_of, one_writer, shown

log = logging.getLogger(__name__)

metadata = MetaData()
events = Table(
    "events",
    metadata,
    # SQLite numbers without gaps and never twice only a plain INTEGER.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    # The SHA-256 of the content: the same message by bus and from disk is one row.
    Column("key", String(64), nullable=False, unique=True),
    Column("topic", String(80), nullable=False),
    Column("acquisition_id", String(200), index=True),
    Column("montage_id", String(200)),
    Column("tile_id", String(200)),
    Column("body", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),  # ms since 1970
    Index("events_by_topic", "topic", "seq"),
    Index("events_by_montage", "montage_id", "topic"),
    sqlite_autoincrement=True,
)

_WRITER_LOCK = 7_203_651_170_219_552_101  # any number that no other program takes
_PRUNED_AT_ONCE = 2000  # rows a commit, so that what is to be written waits not long
# Only the dialects' own statements have `on_conflict_do_nothing`.
_INSERT: dict[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


class EventTable:
    """All messages, in order; safe to use from many processes.

    Appending the same message again changes nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        microscope: str = "unknown",
        magnification: int | None = None,
        frames: Path | None = None,
    ) -> None:
        self._url = url
        self._frames = frames
        self._microscope = microscope
        self._magnification = magnification
        self._engine = engine_of(url, setting="acquisition.recorder_url")
        self._insert = _INSERT[self._engine.dialect.name]
        # Who only reads must not wait for the one writer.
        with self._reading() as connection:
            is_there = inspect(connection).has_table(events.name)
        if not is_there:
            with self._writing() as connection:
                metadata.create_all(connection)  # as the one writer: all start at once

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, topic: str, body: Body, headers: Mapping[str, str]) -> int | None:
        """Record one message durably; its number, or None when it was there already.

        Raises
        ------
        StorageError
            The table cannot be written; nothing was recorded.
        """
        return self.append_all([Message(topic, body, headers)])[0]

    def append_all(self, messages: Sequence[Message]) -> list[int | None]:
        """Record many messages in one commit, all or none; their numbers.

        One that the table can never hold is left out with a sentence: the others would
        else wait behind it for ever.
        """
        try:
            return self._append_all(messages)
        except RecordError as error:
            if len(messages) > 1:
                return [
                    number for each in messages for number in self.append_all([each])
                ]
            log.error("%s", error)
            return [None]

    def events(
        self, after: int = 0, *, topics: Iterable[str] = (), limit: int = 1000
    ) -> list[Event]:
        """What was recorded behind number `after`, in order, of `topics` or of all."""
        query = select(events)
        if topics := tuple(topics):
            query = query.where(events.c.topic.in_(topics))
        with self._reading() as connection:
            query = query.where(events.c.seq > begin_of(connection, after))
            rows = connection.execute(query.order_by(events.c.seq).limit(limit))
            return [event_of(row) for row in rows]

    def index(
        self, after: int, *, topics: Sequence[str], limit: int
    ) -> list[tuple[int, str, str]]:
        """`(seq, topic, tile_id)` behind number `after`; the bodies are not read."""
        columns = (events.c.seq, events.c.topic, events.c.tile_id)
        query = select(*columns).where(events.c.seq > after, events.c.topic.in_(topics))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(events.c.seq).limit(limit))
            return [(int(n), str(topic), str(tile or "")) for n, topic, tile in rows]

    def numbered(self, numbers: Sequence[int]) -> list[Event]:
        """The events of these numbers, in order."""
        if not numbers:
            return []
        query = select(events).where(events.c.seq.in_(numbers)).order_by(events.c.seq)
        with self._reading() as connection:
            return [event_of(row) for row in connection.execute(query)]

    def begin_of_last(self, count: int) -> int:
        """The number before the first frame of the `count` acquisitions begun last."""
        columns = (events.c.seq, events.c.tile_id, events.c.montage_id)
        # Only frames: an acquisition begins with its first frame.
        query = select(*columns).where(events.c.topic == RAW)
        seen: set[str] = set()
        first = 0
        with self._reading() as connection:
            rows = connection.execute(query.order_by(events.c.seq.desc()))
            for seq, tile_id, montage_id in rows:
                seen.add(owner_of(str(tile_id), str(montage_id)))
                if len(seen) > count:
                    return first - 1
                first = int(seq)
        return 0

    def prune_results(self, *, before: int) -> int:
        """Delete what was measured of tiles before number `before`; how many rows."""
        old = (
            select(events.c.seq)
            .where(events.c.topic.in_(RESULTS), events.c.seq <= before)
            .limit(_PRUNED_AT_ONCE)
        )
        with self._writing() as connection:
            done = connection.execute(delete(events).where(events.c.seq.in_(old)))
            return int(done.rowcount)

    def close(self) -> None:
        """Close all connections to the table."""
        self._engine.dispose()

    def _append_all(self, messages: Sequence[Message]) -> list[int | None]:
        """As `append_all`; RecordError where the values and not the table are wrong."""
        try:
            rows = [row_of(each) for each in messages]
            with self._writing() as connection:
                return [self._append(connection, row) for row in rows]
        # The drivers' own, as for text that is no Unicode or integers beyond 64 bits.
        except (ValueError, OverflowError) as error:
            raise _refused(messages[0], error) from error
        except StorageError as error:
            if isinstance(error.__cause__, DataError):
                raise _refused(messages[0], error.__cause__) from error
            raise

    def _append(self, connection: Connection, row: dict[str, Any]) -> int | None:
        statement = self._insert(events).values(row).on_conflict_do_nothing()
        # Nothing is returned where the key was there already.
        seq = connection.execute(statement.returning(events.c.seq)).scalar()
        return None if seq is None else int(seq)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        with (
            self._as_one_sentence("written"),
            one_writer(self._engine, lock=_WRITER_LOCK) as connection,
        ):
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._as_one_sentence("read"), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _as_one_sentence(self, what: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            where = shown(self._url)
            raise StorageError(
                f"recorder: {where} could not be {what} "
                f"({str(error).splitlines()[0]}); free space, or start the database",
                url=where,
            ) from error


def begin_of(connection: Connection, after: int) -> int:
    """Where a reader that has seen number `after` goes on.

    At the beginning, where the table was begun anew since, as after it was damaged.
    """
    last = connection.execute(select(func.max(events.c.seq))).scalar()
    return after if after <= (last or 0) else 0


def _refused(message: Message, error: Exception) -> RecordError:
    names = (message.body.get(name) for name in ("tile_id", "montage_id"))
    tile, montage = (shortened(str(name or "none")) for name in names)
    return RecordError(
        f"recorder: a message on {message.topic} (tile {tile}, montage {montage}) is "
        f"left out: found a value that no table holds ({shortened(str(error))}), "
        "expected what the topic's model and limits allow; correct its sender"
    )
