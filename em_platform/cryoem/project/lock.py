"""RELION's own lock of a project: a folder that exists while its pipeline is written.

RELION, doppio and we take it by `mkdir`, which one process alone can do, also on a
network disk (RELION: `src/pipeliner.cpp`; doppio: pipeliner's `DirectoryBasedLock`).
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from em_platform.errors import OutputBusy

LOCK = ".relion_lock"
_OWNER = "em_platform.json"
_STEP_S = 0.05


@contextmanager
def project_lock(project: Path, *, timeout_s: float = 60.0) -> Iterator[None]:
    """Keep all others from writing the project's pipeline within the block.

    One that a killed process of this program left on this computer is taken over; one
    of RELION or doppio never is.

    Raises
    ------
    OutputBusy
        Another program has had it all the time (retryable).
    """
    lock = project / LOCK
    deadline = time.monotonic() + timeout_s
    while not _taken(lock):
        if _is_orphan(lock):
            _release(lock)
            continue
        if time.monotonic() > deadline:
            raise OutputBusy(
                f"project: {lock} was there for {timeout_s:g} s, a free project was "
                "expected; wait for RELION or doppio, or remove it if none is running"
            )
        time.sleep(_STEP_S)
    try:
        yield
    finally:
        _release(lock)


def _taken(lock: Path) -> bool:
    try:
        lock.mkdir()
    except FileExistsError:
        return False
    owner = {"host": socket.gethostname(), "process": os.getpid()}
    (lock / _OWNER).write_text(json.dumps(owner))
    return True


def _is_orphan(lock: Path) -> bool:
    try:
        owner = json.loads((lock / _OWNER).read_text())
        if owner["host"] != socket.gethostname():
            return False
        os.kill(owner["process"], 0)  # only asks whether it lives
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False  # of RELION, or just being made or released
    return False


def _release(lock: Path) -> None:
    (lock / _OWNER).unlink(missing_ok=True)
    try:
        lock.rmdir()
    except OSError:
        return  # gone, or another program has put something into it
