"""Which TCP ports are taken, and which are free."""

import socket


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
