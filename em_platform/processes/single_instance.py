"""One process at a time: locks that the kernel frees when their holder ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from em_platform.config import Settings
from em_platform.errors import ConfigError, StorageError
from em_platform.storage.guard import claim_folder


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Try to hold `path` for the block; False where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            # Not a file with a process id: the kernel frees it after `kill -9` too.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def is_locked(path: Path) -> bool:
    """Whether a process holds `path` now."""
    if not path.is_file():
        return False
    with try_lock(path) as free:
        return not free


@contextmanager
def single_instance(folder: Path, name: str) -> Iterator[None]:
    """Hold the folder's lock during the block; it ends with the process, however.

    Raises
    ------
    ConfigError
        Another process holds it.
    """
    with try_lock(folder / "lock") as is_ours:
        if not is_ours:
            raise ConfigError(
                f"{name}: another process works in {folder}, one at a time may; end it "
                "or give this one another home"
            )
        yield


_BEFORE = (
    # What a person puts there before the first start, such as `up > home/up.log`.
    *("inbox", "frames", "config.yaml", "*.log", "*.out"),
    # What has guards of its own.
    *("data", "raw", "logs", "dagster", "demo", "standins"),
)


def claim_home(settings: Settings) -> None:
    """Make `home` ours; every command that works in it does so first.

    Raises
    ------
    OutputRefused
        It holds what this program did not make.
    StorageError
        It cannot be written.
    """
    home = settings.home.absolute()
    claim_folder(str(home), "home", known=_BEFORE)
    # Of an older start the mark is there, and nothing was written now.
    if not os.access(home, os.W_OK | os.X_OK):
        raise StorageError(
            f"home: {home} cannot be written, a folder of one's own was expected; "
            "check its owner and its disk, or name another home by EM_HOME"
        )
