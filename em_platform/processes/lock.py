"""A file that one process holds at a time; the kernel lets it go when that one ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Try to hold `path` for the block; False where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def is_held(path: Path) -> bool:
    """Whether a process holds `path` now."""
    if not path.is_file():
        return False
    with held(path) as free:
        return not free
