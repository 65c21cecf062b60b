"""The database under TEM DB: SQLite by default, PostgreSQL by URL; brought up to date.

A writer takes SQLite's lock at once: one that reads first and then writes can meet
SQLITE_BUSY however long it waits (https://www.sqlite.org/lang_transaction.html).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from em_platform.config import Settings
from em_platform.errors import ConfigError, StorageError

_BUSY_TIMEOUT_MS = 30_000
_MIGRATION_LOCK = 7_203_651_170_219_552_102
_SCRIPTS = Path(__file__).parent / "migrations"


class Database:
    """Transactions on one database; safe to use from many threads and processes."""

    def __init__(self, url: str) -> None:
        self._engine = engine_of(url)
        self._reader = sessionmaker(self._engine, expire_on_commit=False)
        writer = self._engine.execution_options(em_writer=True)
        self._writer = sessionmaker(writer, expire_on_commit=False)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the whole."""
        with self._reader() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are all kept when the block ends, or none."""
        with self._writer.begin() as session:
            yield session

    def answers(self) -> bool:
        """Whether the database can be asked."""
        try:
            with self._engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def database_url(settings: Settings) -> str:
    """Where TEM DB keeps all: by `temdb.database`, else an SQLite file in the home."""
    given = settings.temdb.database
    return given or f"sqlite:///{(settings.home / 'temdb.sqlite').absolute()}"


def migrate(url: str) -> None:
    """Bring the tables up to the present version; two that do it at once are one.

    Raises
    ------
    StorageError
        The database cannot be reached or changed.
    """
    from alembic import command

    engine = engine_of(url)
    try:
        with engine.execution_options(em_writer=True).begin() as connection:
            if engine.dialect.name == "postgresql":
                lock = text("SELECT pg_advisory_xact_lock(:key)")
                connection.execute(lock, {"key": _MIGRATION_LOCK})
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        where = make_url(url).render_as_string(hide_password=True)
        raise StorageError(
            f"temdb: {where} could not be brought up to date "
            f"({str(error).splitlines()[0]}); start the database, or free space"
        ) from error
    finally:
        engine.dispose()


def alembic_config() -> Any:
    """Alembic's configuration: where the migrations lie in this package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def engine_of(url: str) -> Engine:
    """An engine for SQLite or PostgreSQL.

    Raises
    ------
    ConfigError
        The URL names neither.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _unknown(url) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.get_backend_name() != "sqlite":
        raise _unknown(url)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see `_begin_sqlite`
    for pragma in (
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    is_writer = connection.get_execution_options().get("em_writer")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


def _unknown(url: str) -> ConfigError:
    return ConfigError(
        f"temdb: {url.split('@')[-1]!r} is no URL of a database that is supported, "
        "sqlite:///file or postgresql://user:password@host/name was expected; "
        "correct temdb.database"
    )
