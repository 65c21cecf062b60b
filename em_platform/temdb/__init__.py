"""The TEM database: specimens, sections, tasks, acquisitions and tiles over HTTP."""

from typing import TYPE_CHECKING

from em_platform.config import Settings
from em_platform.storage.tokens import token_of

if TYPE_CHECKING:
    from em_platform.temdb.register import Register


def run(settings: Settings, *, name: str) -> None:
    """Serve until SIGTERM."""
    # Here: who only wants the URL or the token loads no SQLAlchemy.
    from em_platform.temdb.app import run as run_temdb

    run_temdb(settings, name=name)


def register_of(settings: Settings) -> "Register":
    """The register that the settings name."""
    # The client takes 0.6 s to import; few of the processes ever ask TEM DB.
    from em_platform.temdb.register import Register

    return Register(temdb_url(settings), temdb_token(settings))


def temdb_url(settings: Settings) -> str:
    """Where TEM DB answers: by `temdb.url`, else where our own service listens."""
    temdb = settings.temdb
    return temdb.url or f"http://{temdb.host}:{temdb.port}"


def temdb_token(settings: Settings) -> str:
    """The token that TEM DB expects."""
    # Client and service read the same file in the home: nobody has to copy a token.
    return token_of(settings.home, "temdb", settings.temdb.token.get_secret_value())


__all__ = ["register_of", "run", "temdb_token", "temdb_url"]
