"""A microscope of real processes for the length of a block."""

import atexit
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

from em_platform.acquisition.session.rig import DEVICES, broker_children, rig_children
from em_platform.config import Settings
from em_platform.processes import Supervisor
from em_platform.processes.fork_server import ForkServer

_START_S = 120.0  # the first time numba compiles the tissue


@cache
def fork_server() -> ForkServer:
    """One for all programs that the tests of this process start: it imports once."""
    server = ForkServer(os.environ)
    atexit.register(server.close)
    return server


@contextmanager
def running_rig(
    settings: Settings,
    *,
    environment: Mapping[str, str] | None = None,
    wanted: Sequence[str] = DEVICES,
) -> Iterator[Supervisor]:
    """A simulated microscope that runs while the block lasts; nothing is left behind.

    Parameters
    ----------
    settings
        Where the broker is. With `broker.embedded` one is started when none listens.
    environment
        Settings that the processes shall have beside those of this process, as
        environment variables (see config.export).
    wanted
        Which devices and services; the ports of HTTP services must be free.

    Raises
    ------
    ToolFailed
        A process did not start; with the end of its log.
    BrokerUnavailable
        No broker listens, and the settings say that there is one already.
    """
    environment = {
        "EM_HOME": str(settings.home.absolute()),
        **(environment or {}),
    }
    groups = [
        *broker_children(settings, environment=environment),
        *rig_children(settings, environment=environment, wanted=wanted),
    ]
    with Supervisor(settings.logs_folder, fork_server=fork_server()) as supervisor:
        supervisor.start_all(groups, timeout_s=_START_S)
        yield supervisor
