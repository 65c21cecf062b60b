"""RELION's own lock of a project: a folder that exists while its pipeline is written.

RELION, doppio and we take it by `mkdir`, which one process alone can do, also on a
network disk (RELION: `src/pipeliner.cpp`; doppio: pipeliner's `DirectoryBasedLock`).
Among our own processes the kernel's lock of the project's folder goes first: it ends
with its process, so whoever has it knows that a lock of ours was left by a killed one.
"""

import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from em_platform.errors import OutputBusy
from em_platform.storage.atomic import remove_leftovers

LOCK = ".relion_lock"
_OWNER = "em_platform.json"
_STEP_S = 0.05
# One call of the system makes the folder and this mark of ours (Linux keeps the sticky
# bit of mkdir), so that no kill comes between them.
_OURS = 0o755 | stat.S_ISVTX


@contextmanager
def project_lock(project: Path, *, timeout_s: float = 60.0) -> Iterator[None]:
    """Keep all others from writing the project's pipeline within the block.

    A lock that a killed process of this program left on this computer is taken over,
    and what it was writing is removed; one of RELION or doppio never is.

    Raises
    ------
    OutputBusy
        Another program has had it all the time (retryable).
    """
    lock = project / LOCK
    deadline = time.monotonic() + timeout_s
    with _among_ours(project, deadline) as is_alone:
        while not _taken(lock):
            # First of all: one of ours may not go away, as there is a file in it.
            if time.monotonic() > deadline:
                raise OutputBusy(
                    f"project: {lock} was there for {timeout_s:g} s, a free project "
                    "was expected; wait for RELION or doppio, or remove it if none is "
                    "running"
                )
            if _is_of_killed(lock, is_alone=is_alone):
                _release(lock)
                remove_leftovers(project)
            else:
                time.sleep(_STEP_S)
        try:
            yield
        finally:
            _release(lock)


@contextmanager
def _among_ours(project: Path, deadline: float) -> Iterator[bool]:
    """Whether no other process of ours on this computer can have the lock."""
    folder = os.open(project, os.O_RDONLY)
    is_alone = False
    try:
        while not is_alone and time.monotonic() < deadline:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_alone = True
            except BlockingIOError:
                time.sleep(_STEP_S)
            except OSError:
                break  # some network disks lock no folder; then RELION's is all
        yield is_alone
    finally:
        os.close(folder)


def _taken(lock: Path) -> bool:
    try:
        os.mkdir(lock, _OURS)
    except FileExistsError:
        return False
    owner = {"host": socket.gethostname(), "process": os.getpid()}
    (lock / _OWNER).write_text(json.dumps(owner))
    return True


def _is_of_killed(lock: Path, *, is_alone: bool) -> bool:
    """Whether the lock is ours and of this computer, and its process has ended."""
    if lock.is_symlink():
        return False  # what it leads to is another's
    try:
        owner = json.loads((lock / _OWNER).read_text())
        if owner["host"] != socket.gethostname():
            return False
        if not is_alone:
            os.kill(owner["process"], 0)  # only asks whether it lives
        return is_alone
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        # Of RELION, or its process was killed before it had written its name.
        return is_alone and _has_mark(lock)


def _has_mark(lock: Path) -> bool:
    try:
        return bool(lock.stat().st_mode & stat.S_ISVTX)
    except OSError:
        return False  # it has been released


def _release(lock: Path) -> None:
    (lock / _OWNER).unlink(missing_ok=True)
    try:
        lock.rmdir()
    except OSError:
        return  # gone, or another program has put something into it
