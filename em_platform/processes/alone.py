"""One process at a time works in a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from em_platform.errors import ConfigError


@contextmanager
def alone_in(folder: Path, who: str) -> Iterator[None]:
    """Hold the folder's lock during the block; it ends with the process, however.

    Raises
    ------
    ConfigError
        Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{who}: another process works in {folder}, one at a time may; end it "
                "or give this one another home"
            ) from error
        yield
