"""TCP ports for tests, which no other test session on this computer is given, and the
settings of a broker process at one."""

import atexit
import random
import socket
from pathlib import Path

from em_platform.config import BrokerSettings, load_settings

_FIRST, _LAST = 20_000, 32_000
"""Below the ports that Linux gives to outgoing connections (32768 to 60999), so that
none of them takes a port between its choice here and the start of its server."""

_marks: list[socket.socket] = []


def reserve_port() -> int:
    """A port on 127.0.0.1 where nothing listens, reserved while this process lives.

    The reservation is a name that only one socket of a computer can have (an abstract
    Unix socket), so it ends with the process however that ends.
    """
    while True:
        port = random.SystemRandom().randrange(_FIRST, _LAST)
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0em-platform-test-port-{port}")
            with socket.create_server(("127.0.0.1", port)):
                pass
        except OSError:
            mark.close()
            continue
        _marks.append(mark)
        return port


def broker_at(port: int, home: Path) -> BrokerSettings:
    """How a program reaches a broker process that was started in `home`."""
    environment = {"EM_HOME": str(home), "EM_BROKER__PORT": str(port)}
    return load_settings(environment=environment).broker


@atexit.register
def _give_back() -> None:
    for mark in _marks:
        mark.close()
