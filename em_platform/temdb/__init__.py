"""The TEM database: specimens, sections, tasks, acquisitions and tiles over HTTP."""

from em_platform.config import Settings


def run(settings: Settings, *, name: str) -> None:
    """Serve until SIGTERM."""
    from em_platform.temdb.app import run as run_temdb

    run_temdb(settings, name=name)


__all__ = ["run"]
