"""The databases of a home, looked at before the processes that keep them start."""

from collections.abc import Callable
from functools import partial

from em_platform.config import Settings
from em_platform.errors import StorageError


def refuse_damaged_databases(settings: Settings, *, microscope: bool) -> None:
    """See that none is damaged: each service would only tell of its own.

    Raises
    ------
    StorageError
        Some are; with the sentence of each.
    """
    found = []
    for check in _checks(settings, microscope=microscope):
        try:
            check()
        except StorageError as error:
            found.append(str(error))
    if len(found) == 1:
        raise StorageError(found[0])
    if found:
        counted = (f"({number}) {each}" for number, each in enumerate(found, 1))
        raise StorageError(
            f"found {len(found)} damaged databases: {'; '.join(counted)}"
        )


def _checks(settings: Settings, *, microscope: bool) -> list[Callable[[], None]]:
    # Here: SQLAlchemy and the services' modules take a while to load.
    from em_platform.acquisition import recorder
    from em_platform.acquisition.buffer import journal as buffer
    from em_platform.acquisition.pipeline import journal as pipeline
    from em_platform.aloha import journal as aloha
    from em_platform.storage.database import refuse_damaged_at
    from em_platform.storage.journal_file import refuse_damaged
    from em_platform.temdb import database as temdb

    url = recorder.recorder_url(settings)
    checks = [partial(refuse_damaged_at, url, who="recorder", without=recorder.WITHOUT)]
    if not microscope:
        return list(checks)
    url = temdb.database_url(settings)
    checks += [partial(refuse_damaged_at, url, who="temdb", without=temdb.WITHOUT)]
    journals = {
        "pipeline": pipeline.WITHOUT,
        "buffer": buffer.WITHOUT,
        "aloha": aloha.WITHOUT,
    }
    home = settings.home.absolute()
    for who, without in journals.items():
        path = home / who / "journal.sqlite"
        checks.append(partial(refuse_damaged, path, who=who, without=without))
    return list(checks)
