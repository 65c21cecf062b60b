"""The durable table of the microscope's events: SQLite by default, PostgreSQL by URL.

Sequence numbers appear in order: a reader that has seen `seq` never meets a smaller
one later. Two writers could commit out of order, so there is one at a time: SQLite's
write lock, or an advisory lock in PostgreSQL that is held until the commit is visible.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
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
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from em_platform.acquisition.recorder.events import (
    COMPLETE,
    PROGRESS,
    RAW,
    SCOPE,
    Event,
    Message,
    event_of,
    row_of,
    safe_id,
)
from em_platform.acquisition.recorder.montage import recorded_montage
from em_platform.acquisition.recorder.reconcile import scan_folder
from em_platform.errors import RecordError, StorageError
from em_platform.model import Montage
from em_platform.storage import Store
from em_platform.storage.database import engine_of, one_writer, shown

metadata = MetaData()
events = Table(
    "events",
    metadata,
    # SQLite numbers without gaps and never twice only a plain INTEGER.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
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

_WRITER_LOCK = 7_203_651_170_219_552_101
_FEW_STATUSES = 50  # trouble before a montage is said without the number of its tiles
_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Ledger:
    """All that the microscope said, in order; safe to use from many processes.

    Appending the same thing again changes nothing. `microscope` and `magnification`
    stand in for what no event says.
    """

    def __init__(
        self, url: str, *, microscope: str = "unknown", magnification: int | None = None
    ) -> None:
        self._url = url
        self._microscope = microscope
        self._magnification = magnification
        self._engine = engine_of(url, setting="acquisition.recorder_url")
        self._insert = _INSERT[self._engine.dialect.name]
        with self._writing() as connection:
            metadata.create_all(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append(
        self, topic: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> int | None:
        """Record one message durably; its number, or None when it was there already.

        Raises
        ------
        StorageError
            The table cannot be written; nothing was recorded.
        """
        return self.append_all([Message(topic, body, headers)])[0]

    def append_all(self, said: Sequence[Message]) -> list[int | None]:
        """Record many messages in one commit, all or none; their numbers."""
        rows = [row_of(each) for each in said]
        with self._writing() as connection:
            return [self._append(connection, row) for row in rows]

    def events(
        self, after: int = 0, *, topics: Iterable[str] = (), limit: int = 1000
    ) -> list[Event]:
        """What was recorded behind number `after`, in order, of `topics` or of all."""
        query = select(events).where(events.c.seq > after)
        if topics := tuple(topics):
            query = query.where(events.c.topic.in_(topics))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(events.c.seq).limit(limit))
            return [event_of(row) for row in rows]

    def montages(self, after: int = 0, *, limit: int = 1000) -> list[tuple[int, str]]:
        """`(seq, acquisition_id)` of the montages completed behind number `after`.

        Each montage once: where its completion was said anew, the first time counts.
        """
        first = func.min(events.c.seq)
        query = (
            select(first, events.c.acquisition_id)
            .where(events.c.topic == COMPLETE)
            .group_by(events.c.acquisition_id)
            .having(first > after)
            .order_by(first)
            .limit(limit)
        )
        with self._reading() as connection:
            return [(int(seq), str(name)) for seq, name in connection.execute(query)]

    def montage(self, acquisition_id: str, *, store: Store | None = None) -> Montage:
        """The montage as it was imaged; what is wrong with single tiles is in it.

        Frames that have left the microscope's disk are looked for in `store`.

        Raises
        ------
        RecordError
            Its completion is not recorded.
        DataError
            Not one of its tiles can be used.
        """
        with self._reading() as connection:
            complete = self._newest(connection, acquisition_id)
            raw = select(events).where(
                events.c.topic == RAW,
                events.c.montage_id == complete.body["montage_id"],
            )
            rows = connection.execute(raw.order_by(events.c.seq))
            frames = [event_of(row) for row in rows]
            magnification = self._magnification_before(connection, complete.seq)
            planned_tiles = self._planned_tiles(connection, complete)
        return recorded_montage(
            complete,
            frames,
            microscope=self._microscope,
            magnification=magnification or self._magnification,
            planned_tiles=planned_tiles,
            store=store,
        )

    def lens_shown(self, acquisition_id: str) -> tuple[str, int] | None:
        """Microscope and magnification whose lens the montage was imaged to show.

        None for a montage that shows a specimen.
        """
        with self._reading() as connection:
            complete = self._newest(connection, acquisition_id)
            frames = select(events).where(
                events.c.topic == RAW,
                events.c.montage_id == complete.body["montage_id"],
                events.c.tile_id.in_(list(complete.body["tiles"])[:1]),
            )
            frame = connection.execute(frames.limit(1)).first()
            magnification = self._magnification_before(connection, complete.seq)
        if frame is None or not event_of(frame).body.get("lens_correction"):
            return None
        magnification = magnification or self._magnification
        return None if magnification is None else (self._microscope, magnification)

    def tile_ids(self, montage_id: str) -> set[str]:
        """The tiles of one montage whose frames are recorded."""
        query = select(events.c.tile_id).where(
            events.c.topic == RAW, events.c.montage_id == montage_id
        )
        with self._reading() as connection:
            return {str(name) for (name,) in connection.execute(query)}

    def is_complete(self, acquisition_id: str) -> bool:
        """Whether the completion of this montage is recorded."""
        query = select(events.c.seq).where(
            events.c.topic == COMPLETE,
            events.c.acquisition_id == safe_id(acquisition_id),
        )
        with self._reading() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def montage_ids(self) -> set[str]:
        """The ids of all montages that were imaged whole."""
        query = select(events.c.montage_id).where(events.c.topic == COMPLETE).distinct()
        with self._reading() as connection:
            return {str(name) for (name,) in connection.execute(query)}

    def reconcile_montage(self, folder: Path) -> int:
        """Record what lies beside a montage's frames and is not recorded; how much.

        The tiles come first, then the completion: who sees it finds all tiles.
        """
        found = scan_folder(
            folder, recorded=self.tile_ids(folder.name), is_complete=self.is_complete
        )
        return sum(seq is not None for seq in self.append_all(found)) if found else 0

    def close(self) -> None:
        """Close all connections to the table."""
        self._engine.dispose()

    def _append(self, connection: Connection, row: dict[str, Any]) -> int | None:
        statement = self._insert(events).values(row).on_conflict_do_nothing()
        seq = connection.execute(statement.returning(events.c.seq)).scalar()
        return None if seq is None else int(seq)

    def _newest(self, connection: Connection, acquisition_id: str) -> Event:
        query = select(events).where(
            events.c.topic == COMPLETE, events.c.acquisition_id == acquisition_id
        )
        row = connection.execute(query.order_by(events.c.seq.desc()).limit(1)).first()
        if row is None:
            raise RecordError(
                f"recorder: no montage {acquisition_id} is recorded as complete; see "
                "that the recorder runs and the acquisition has ended",
                acquisition_id=acquisition_id,
            )
        return event_of(row)

    def _planned_tiles(self, connection: Connection, complete: Event) -> int:
        """How many tiles the raster has by the newest status before the completion.

        A recorder that came late may have only those behind it. 0 where none says it.
        """
        said = select(events).where(
            events.c.topic == PROGRESS,
            events.c.montage_id == complete.body["montage_id"],
        )
        before = said.where(events.c.seq < complete.seq).order_by(events.c.seq.desc())
        behind = said.where(events.c.seq > complete.seq).order_by(events.c.seq)
        for query in (before, behind):
            for row in connection.execute(query.limit(_FEW_STATUSES)):
                status = event_of(row).body
                # A tilt series images one montage many times, once an angle.
                same = status.get("tilt_index") == complete.body.get("tilt_index")
                if same and status.get("total_tiles"):
                    return int(status["total_tiles"])
        return 0

    def _magnification_before(self, connection: Connection, seq: int) -> int | None:
        query = select(events).where(events.c.topic == SCOPE, events.c.seq < seq)
        row = connection.execute(query.order_by(events.c.seq.desc()).limit(1)).first()
        return None if row is None else int(event_of(row).body["mag"])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        with (
            self._told_plainly("written"),
            one_writer(self._engine, lock=_WRITER_LOCK) as connection,
        ):
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._told_plainly("read"), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _told_plainly(self, what: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            where = shown(self._url)
            raise StorageError(
                f"recorder: {where} could not be {what} "
                f"({str(error).splitlines()[0]}); free space, or start the database",
                url=where,
            ) from error
