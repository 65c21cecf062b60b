"""Ends a session's processes when its parent is gone, however the parent ended.

`python -m em_platform.processes.watchdog SESSION PARENT_PID` reads a pipe that only
the parent can write to. The kernel closes it when the parent dies, by `kill -9` too.
"""

import os
import signal
import sys

from em_platform.processes.session import end_session

_GRACE_S = 5.0


def watch(session: str, parent_pid: int) -> None:
    """Wait for the end of the pipe on standard input, then end `session`."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while os.read(sys.stdin.fileno(), 1024):
        continue
    end_session(session, grace_s=_GRACE_S, but=(parent_pid,))


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
