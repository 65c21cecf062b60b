"""A database with ISPyB's tables: SQLite by default, MariaDB or PostgreSQL by URL."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from math import isnan
from typing import Any, cast

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Table,
    create_engine,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from em_platform.cryoem.ispyb.tables import METADATA
from em_platform.errors import PlatformError, RecordError, SourceUnavailable
from em_platform.storage.database import engine_of, one_writer, shown

log = logging.getLogger(__name__)

Values = Mapping[str, Any]

# Both ask before they insert: of two writers at once, each would insert its row.
_LOCK = 0x15B9
_MARIADB_LOCK = "em_platform.ispyb"
_LOCK_TIMEOUT_S = 60
_SETTING = "cryoem.ispyb_url"


@dataclass(kw_only=True)
class Ispyb:
    """An open database; `write` gives what commands write through."""

    engine: Engine
    columns: dict[str, frozenset[str]] = field(default_factory=dict)
    """Table -> the columns that this database has of it."""
    warned: set[str] = field(default_factory=set)

    @contextmanager
    def write(self) -> Iterator["Writer"]:
        """One commit: all that the block writes, or nothing.

        Raises
        ------
        RecordError
            The database refuses a row: a parent is missing, a text is too long.
        SourceUnavailable
            The database does not answer (retryable).
        """
        try:
            with _one_writer(self.engine) as connection:
                yield Writer(connection=connection, database=self)
        except PlatformError:
            raise
        except DBAPIError as error:
            raise _sentence(error) from error

    def known_columns(self, table: Table, connection: Connection) -> frozenset[str]:
        """The columns that the table has in this database."""
        if table.name not in self.columns:
            try:
                found = inspect(connection).get_columns(table.name)
            except NoSuchTableError as error:
                raise RecordError(
                    f"ISPyB: the database has no table {table.name}, one of a newer "
                    "schema was expected; update the database's schema"
                ) from error
            self.columns[table.name] = frozenset(each["name"] for each in found)
        return self.columns[table.name]

    def close(self) -> None:
        """End all connections."""
        self.engine.dispose()


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Reads and writes rows within one commit."""

    connection: Connection
    database: Ispyb

    def find(self, table: Table, keys: Values) -> int | None:
        """The id of the row with these values (None is NULL); the oldest of several."""
        wanted = select(_id(table)).order_by(_id(table)).limit(1)
        for name, value in self._kept(table, keys).items():
            wanted = wanted.where(table.c[name] == value)
        found: int | None = self.connection.execute(wanted).scalar()
        return found

    def insert(self, table: Table, values: Values) -> int:
        """Add a row; its id."""
        row = {k: v for k, v in self._kept(table, values).items() if v is not None}
        inserted = self.connection.execute(table.insert().values(row))
        # SQLAlchemy gives it for every insert of one row.
        key = cast("tuple[int, ...]", inserted.inserted_primary_key)
        return int(key[0])

    def update(self, table: Table, keys: Values, values: Values) -> bool:
        """Change what `values` has of rows with these keys; whether there are any."""
        matching = [table.c[name] == value for name, value in keys.items()]
        if self.connection.execute(select(_id(table)).where(*matching)).first() is None:
            return False
        row = {k: v for k, v in self._kept(table, values).items() if v is not None}
        if row:
            self.connection.execute(table.update().where(*matching).values(row))
        return True

    def _kept(self, table: Table, values: Values) -> Values:
        """The values as their columns' types, without columns that are not there."""
        there = self.database.known_columns(table, self.connection)
        kept = {}
        for name, value in values.items():
            if name in there:
                kept[name] = _typed(table.c[name], value)
            elif value is not None and f"{table.name}.{name}" not in (
                warned := self.database.warned
            ):
                warned.add(f"{table.name}.{name}")
                log.warning(
                    "ISPyB: this database has no column %s.%s; its values are left "
                    "out until the schema is updated",
                    *(table.name, name),
                )
        return kept


def open_ispyb(url: str) -> Ispyb:
    """Open the database and make the tables that it has not.

    Parameters
    ----------
    url
        `sqlite:///file`, `mysql://` or `mariadb://`, or `postgresql://`.

    Raises
    ------
    ConfigError
        The URL names none of these.
    SourceUnavailable
        The database does not answer (retryable).
    """
    engine = _engine(url)
    try:
        # A full ISPyB has them all, and stays as it is.
        METADATA.create_all(engine)
    except DBAPIError as error:
        engine.dispose()
        raise SourceUnavailable(
            f"ISPyB: {shown(url)} does not answer ({error.orig}), an open database was "
            f"expected; start it, or correct {_SETTING}"
        ) from error
    return Ispyb(engine=engine)


def _engine(url: str) -> Engine:
    scheme, separator, rest = url.partition("://")
    if separator and scheme.partition("+")[0] in ("mysql", "mariadb"):
        # PyMySQL has no compiled part; other drivers are taken when they are named.
        driver = scheme if "+" in scheme else f"{scheme}+pymysql"
        return create_engine(
            make_url(f"{driver}://{rest}"),
            pool_pre_ping=True,
            # With repeatable reads a row committed while we waited is not seen.
            isolation_level="READ COMMITTED",
        )
    return engine_of(url, setting=_SETTING)


@contextmanager
def _one_writer(engine: Engine) -> Iterator[Connection]:
    if engine.dialect.name not in ("mysql", "mariadb"):
        with one_writer(engine, lock=_LOCK) as connection:
            yield connection
        return
    lock = {"name": _MARIADB_LOCK, "seconds": _LOCK_TIMEOUT_S}
    with engine.connect() as connection:
        taken = text("SELECT GET_LOCK(:name, :seconds)")
        if connection.execute(taken, lock).scalar() != 1:
            raise SourceUnavailable(
                f"ISPyB: another writer kept its lock for {_LOCK_TIMEOUT_S} s, less "
                "was expected; try again later"
            )
        try:
            yield connection
            connection.commit()
        finally:
            connection.rollback()
            # It belongs to the connection, which the pool keeps.
            connection.execute(text("SELECT RELEASE_LOCK(:name)"), lock)
            connection.commit()


def _id(table: Table) -> Column[Any]:
    first: Column[Any] = next(iter(table.primary_key.columns))
    return first


def _typed(column: Column[Any], value: Any) -> Any:
    """A value of a message as its column's type: recipes give numbers as text."""
    if value is None or column.type.python_type in (datetime,):
        return value
    kind = column.type.python_type
    try:
        if kind is int:
            return int(float(value)) if not isinstance(value, int) else int(value)
        if kind is float:
            # No database but SQLite has a place for NaN here.
            return None if isnan(float(value)) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError(
            f"ISPyB: {column.table.name}.{column.name} got {str(value)[:80]!r}, a "
            "number was expected; correct the message"
        ) from error
    enums = getattr(column.type, "enums", None)
    if enums and value not in enums:
        raise RecordError(
            f"ISPyB: {column.table.name}.{column.name} got {str(value)[:80]!r}, one of "
            f"{', '.join(enums)} was expected; correct the message"
        )
    length = getattr(column.type, "length", None)
    if length and not enums and len(str(value)) > length:
        raise RecordError(
            f"ISPyB: {column.table.name}.{column.name} got {len(str(value))} "
            f"characters, at most {length} were expected; shorten {str(value)[:80]!r}"
        )
    return str(value)


def _sentence(error: DBAPIError) -> PlatformError:
    found = str(error.orig).strip() or type(error).__name__
    # By class name: each driver has its own of the standard's classes (PEP 249).
    if error.connection_invalidated or type(error.orig).__name__ in (
        *("OperationalError", "InterfaceError"),
    ):
        return SourceUnavailable(
            f"ISPyB: the database does not answer ({found}), a commit was expected; "
            "start it, and the message is tried again"
        )
    return RecordError(
        f"ISPyB: the database refuses a row ({found}), one whose parents exist was "
        "expected; register the data collection and program first"
    )
