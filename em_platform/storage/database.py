"""How a database is opened: SQLite by default, PostgreSQL by URL.

A writer takes SQLite's lock at once: one that reads first and then writes can meet
SQLITE_BUSY however long it waits (https://www.sqlite.org/lang_transaction.html).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from em_platform.errors import ConfigError
from em_platform.storage.journal_file import refuse_damaged, write_ahead

# Execution options of an engine or session that is going to write.
WRITER = {"em_writer": True}

# Another process that writes is waited for, not refused at once.
_BUSY_TIMEOUT_MS = 30_000


def engine_of(url: str, *, setting: str) -> Engine:
    """An engine for SQLite or PostgreSQL; a commit is on the disk when it returns.

    `setting` is the name of the one that gave the URL.

    Raises
    ------
    ConfigError
        The URL names neither.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _unknown(url, setting) from error
    # Hosts give `postgres://` too; without a driver SQLAlchemy would take psycopg2.
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "postgresql":
        # A server that was restarted leaves dead connections in the pool.
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.get_backend_name() != "sqlite":
        raise _unknown(url, setting)
    if parsed.database:
        # SQLite makes its file, but not the folder of it.
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def one_writer(engine: Engine, *, lock: int) -> Iterator[Connection]:
    """One commit, while no other process is in such a block.

    `lock` is the number of the advisory lock that PostgreSQL holds until the commit is
    visible; SQLite has one writer anyway.
    """
    with engine.execution_options(**WRITER).begin() as connection:
        if engine.dialect.name == "postgresql":
            taken = text("SELECT pg_advisory_xact_lock(:key)")
            connection.execute(taken, {"key": lock})
        yield connection


def refuse_damaged_at(url: str, *, who: str, without: str) -> None:
    """As `refuse_damaged`, of a file by its URL; a server looks after itself."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        refuse_damaged(Path(parsed.database), who=who, without=without)


def shown(url: str) -> str:
    """The URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see `_begin_sqlite`
    connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}").close()
    write_ahead(connection)
    # NORMAL would lose the last commits in a power cut; foreign keys are
    # checked only on connections that ask for it (sqlite.org/pragma.html).
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    is_writer = connection.get_execution_options().get("em_writer")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


def _unknown(url: str, setting: str) -> ConfigError:
    return ConfigError(
        # Only what is behind the @: no password goes into a log.
        f"database: {url.split('@')[-1]!r} is no URL of a database that is supported, "
        "sqlite:///file or postgresql://user:password@host/name was expected; "
        f"correct {setting}"
    )
