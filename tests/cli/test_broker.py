import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from em_platform.messaging.bus import Bus
from tests.ports import broker_at


def start(name: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "em_platform", name],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_ready(process: subprocess.Popen[str], name: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line == f"ready {name}\n":
            return
    raise AssertionError(process.communicate())


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_broker_serves_and_ends_cleanly(
    free_port: Callable[[], int], home: Path, number: signal.Signals
) -> None:
    port = free_port()
    process = start("broker", EM_BROKER__PORT=str(port))
    wait_for_ready(process, "broker")
    with Bus(broker_at(port, home), "test") as bus:
        bus.connect()
    process.send_signal(number)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "stopped" in log
    assert "Traceback" not in log


@pytest.mark.system
def test_a_taken_port_is_one_sentence_and_status_1(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start("broker", EM_BROKER__PORT=str(taken.getsockname()[1]))
        _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "cannot be listened at" in log
    assert "Traceback" not in log


@pytest.mark.system
def test_the_recorder_waits_for_the_broker_and_ends_cleanly(
    free_port: Callable[[], int], home: Path
) -> None:
    port = str(free_port())
    recorder = start("recorder", EM_BROKER__PORT=port)
    broker = start("broker", EM_BROKER__PORT=port)
    wait_for_ready(broker, "broker")
    wait_for_ready(recorder, "recorder")
    assert (home / "recorder.sqlite").is_file()
    for process in (recorder, broker):
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in log


@pytest.mark.system
def test_the_recorder_ends_while_it_waits_for_a_broker(
    free_port: Callable[[], int], home: Path
) -> None:
    recorder = start("recorder", EM_BROKER__PORT=str(free_port()))
    assert recorder.stderr is not None
    assert "no broker answers there" in recorder.stderr.readline()
    recorder.send_signal(signal.SIGTERM)
    recorder.communicate(timeout=20)
    assert recorder.returncode == 0
