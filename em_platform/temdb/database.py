"""The database under TEM DB, brought up to date: SQLite, or PostgreSQL by URL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from em_platform.config import Settings
from em_platform.errors import StorageError
from em_platform.storage import database
from em_platform.storage.database import WRITER, one_writer, shown

WITHOUT = (
    "specimens, sections, tasks and reviews are lost; the pixels and upload.json of "
    "each montage stay in the store"
)
"""What becomes of it when the database is moved away."""

# Any number that no other program takes as a PostgreSQL advisory lock.
_MIGRATION_LOCK = 7_203_651_170_219_552_102
_SCRIPTS = Path(__file__).parent / "migrations"


class Database:
    """Transactions on one database; safe to use from many threads and processes."""

    def __init__(self, url: str) -> None:
        self._engine = engine_of(url)
        # Routes answer with rows after their session has ended: those stay loaded.
        self._reader = sessionmaker(self._engine, expire_on_commit=False)
        # It takes SQLite's lock at BEGIN, see `storage/database.py`.
        writer = self._engine.execution_options(**WRITER)
        self._writer = sessionmaker(writer, expire_on_commit=False)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the whole."""
        # No commit: what ends without one is rolled back, and holds nothing.
        with self._reader() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are all kept when the block ends, or none."""
        with self._writer.begin() as session:
            yield session

    def answers(self) -> bool:
        """Whether the database answers a query."""
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
        with one_writer(engine, lock=_MIGRATION_LOCK) as connection:
            config = alembic_config()
            # A second connection would wait for the lock that this one holds.
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        raise StorageError(
            f"temdb: {shown(url)} could not be brought up to date "
            # SQLAlchemy's further lines are the statement and a link.
            f"({str(error).splitlines()[0]}); start the database, or free space"
        ) from error
    finally:
        engine.dispose()


def alembic_config() -> Any:
    """Alembic's configuration: the path of the migrations in this package."""
    from alembic.config import Config

    config = Config()
    # Alembic keeps its options in a ConfigParser, to which a single % is a reference.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def engine_of(url: str) -> Engine:
    """An engine for the database that `temdb.database` names."""
    return database.engine_of(url, setting="temdb.database")
