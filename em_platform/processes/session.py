"""All processes of one session, found by the mark in their environment.

A mark reaches every descendant, also those whose parents have died or that lead a
process group of their own, such as the workers of a killed server.

The watchdog is a process that runs `watch`: it reads a pipe that only its parent can
write to. The kernel closes it when the parent dies, by `kill -9` too.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable

import psutil

SESSION_VARIABLE = "EM_SESSION"
_GRACE_S = 5.0
"""Before a kill: a server that ends by SIGTERM writes its last row in this time."""


def members(session: str, *, but: Iterable[int] = ()) -> list[psutil.Process]:
    """The live processes that carry the mark of `session`, without those of `but`."""
    spared = {os.getpid(), *but}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in spared and _mark(process) == session
    ]


def end_session(session: str, *, grace_s: float, but: Iterable[int] = ()) -> int:
    """End every process of `session`, politely first; the number that were ended.

    Raises nothing: what cannot be ended within the time belongs to another user.
    """
    found = members(session, but=but)
    _each(found, psutil.Process.terminate)
    psutil.wait_procs(found, timeout=grace_s)
    ended = len(found)
    deadline = time.monotonic() + 10  # a process in the kernel's hands may never end
    # Again and again: a process may have started another while it was looked at.
    while (rest := members(session, but=but)) and time.monotonic() < deadline:
        _each(rest, psutil.Process.kill)
        psutil.wait_procs(rest, timeout=1)
        ended += len([process for process in rest if process not in found])
    return ended


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(SESSION_VARIABLE)
    except (psutil.Error, OSError):
        return None  # it has just ended, or is another user's


def _each(
    processes: list[psutil.Process], act: Callable[[psutil.Process], None]
) -> None:
    for process in processes:
        try:
            act(process)
        except psutil.NoSuchProcess:
            continue


def watch() -> None:
    """Wait for the end of standard input, then end the session of the arguments.

    The arguments are the session and the number of the parent process, which is spared.
    """
    session, parent = sys.argv[1:3]
    # It must outlive the signals that end the others, and acts by the pipe alone.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while os.read(sys.stdin.fileno(), 1024):
        continue
    end_session(session, grace_s=_GRACE_S, but=(int(parent),))
