"""TEM DB as a service process."""

import logging

from em_platform.config import Settings
from em_platform.processes.web import serve, token_of
from em_platform.temdb.database import Database, database_url, migrate

log = logging.getLogger(__name__)


def run(settings: Settings, *, name: str = "temdb") -> None:
    """Bring the database up to date, then serve until SIGTERM or Ctrl-C.

    Raises
    ------
    ConfigError
        The port is taken, or the database's URL is none.
    StorageError
        The database cannot be reached.
    """
    from em_platform.temdb.app import create_app

    temdb = settings.temdb
    url = database_url(settings)
    migrate(url)
    token = token_of(settings.home, "temdb", temdb.token.get_secret_value())
    database = Database(url)
    try:
        serve(create_app(database, token), name=name, host=temdb.host, port=temdb.port)
    finally:
        database.close()
