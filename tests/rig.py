"""A microscope of real processes for the length of a block."""

import atexit
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from em_platform.acquisition.session.rig import (
    DEVICES,
    IMPORTS,
    RECORDER,
    broker_children,
    rig_children,
)
from em_platform.config import Settings
from em_platform.processes import Supervisor
from em_platform.processes.fork_server import ForkedProcess, ForkServer, NewPythons

Process = ForkedProcess | subprocess.Popen[bytes]

_OF_COMMANDS = (
    "em_platform.cli.fault",
    *(f"em_platform.cli.{name}" for name in ("acquire", "live", "watch")),
)
_START_S = 120.0  # the first time numba compiles the tissue


@cache
def fork_server() -> ForkServer:
    """One for all programs that the tests of this process start: it imports once."""
    server = ForkServer(os.environ)
    atexit.register(server.close)
    return server


def start_service(
    name: str,
    *options: str,
    environment: Mapping[str, str],
    output: int,
    programs: ForkServer | NewPythons | None = None,
) -> Process:
    """`em-platform service NAME`, `broker` or `recorder`: a fork, or as `programs` do.

    A fork does not show that a service imports all that it needs: one test of each
    service starts it as a Python of its own, as a person does.
    """
    alone = name in ("broker", RECORDER)
    words = (name,) if alone else ("service", name)
    return (programs or fork_server()).start(
        name,
        (sys.executable, "-m", "em_platform", *words, *options),
        imports=("em_platform.cli.processes", *IMPORTS[name]),
        environment=environment,
        output=output,
    )


def start_command(
    *words: str, environment: Mapping[str, str], output: int
) -> ForkedProcess:
    """`em-platform WORDS` as a fork, which does not show what it imports by itself."""
    return fork_server().start(
        words[0],
        (sys.executable, "-m", "em_platform", *words),
        imports=_OF_COMMANDS,
        environment=environment,
        output=output,
    )


def run_command(
    *words: str, environment: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """`em-platform WORDS` as a fork, when it has ended; both its streams in `stdout`.

    Raises
    ------
    subprocess.TimeoutExpired
        It takes longer; it is killed then.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = start_command(*words, environment=environment, output=output.fileno())
        try:
            status = process.wait(timeout_s)
        finally:
            process.kill()
        output.seek(0)
        return subprocess.CompletedProcess(words, status, stdout=output.read())


@contextmanager
def running_service(
    name: str,
    *,
    environment: Mapping[str, str],
    log: Path,
    programs: ForkServer | NewPythons | None = None,
) -> Iterator[Process]:
    """The process of `start_service`, when it serves; killed after the block."""
    with log.open("wb") as output:
        process = start_service(
            name,
            environment=environment,
            output=output.fileno(),
            programs=programs,
        )
    try:
        deadline = time.monotonic() + _START_S
        while f"ready {name}\n" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait(30)


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
