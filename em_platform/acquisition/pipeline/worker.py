"""Who works: a name for a process by which others can tell whether it still runs."""

import os
import socket
from functools import cache

import psutil


@cache
def own_name() -> str:
    """Host, process id and start of this process; no other process ever has it."""
    pid = os.getpid()
    return f"{socket.gethostname()}|{pid}|{psutil.Process(pid).create_time()}"


def is_gone(name: str) -> bool:
    """Whether the process of `name` has ended; False where that cannot be told."""
    host, _, rest = name.rpartition("|")[0].partition("|")
    started = name.rpartition("|")[2]
    if host != socket.gethostname() or not rest.isdigit():
        return False
    try:
        process = psutil.Process(int(rest))
        is_other = abs(process.create_time() - float(started)) > 1.0
        return is_other or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False
