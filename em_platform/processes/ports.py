"""Which ports are taken, and which are free; sockets of this account alone."""

import hashlib
import os
import socket
import tempfile
from pathlib import Path

from em_platform.errors import ConfigError

# Of the path of a Unix socket: 108 with the NUL at its end on Linux, less elsewhere.
_LONGEST_PATH_BYTES = 100


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections at `host:port`."""
    try:
        socket.create_connection(
            (host, port), timeout=0.5
        ).close()  # on one host: far more than an answer takes
    except OSError:
        return False
    return True


def free_port(host: str, wanted: int = 0) -> int:
    """`wanted` where it is free on `host`, else a free port of the system's choice."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As servers do, so that a port in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no free port on {host}")


def listens_at(path: Path) -> bool:
    """Whether something accepts connections at the Unix socket `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def private_socket(folder: Path, name: str) -> Path:
    """The path of a Unix socket that only this account reaches, always the same one.

    In `folder`, or in a short folder of its own where that path is too long.

    Raises
    ------
    ConfigError
        That folder belongs to another account.
    """
    home = folder.absolute()
    private = home / "sockets"
    if len(os.fsencode(private / f"{name}.sock")) > _LONGEST_PATH_BYTES:
        mark = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        private = Path(tempfile.gettempdir()) / f"em-platform-{mark}"
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Anyone could have made it in a folder that all share.
    status = private.lstat()
    if status.st_uid != os.geteuid() or private.is_symlink():
        raise ConfigError(
            f"{name}: {private} is of account {status.st_uid}, a folder of account "
            f"{os.geteuid()} was expected; remove it, or name another one by TMPDIR"
        )
    private.chmod(0o700)
    return private / f"{name}.sock"
