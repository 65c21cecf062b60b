"""The real Pigeon client and its command line against the embedded broker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stomp
from pigeon import Pigeon

from em_platform.config import BrokerSettings
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(BrokerSettings(port=0)) as broker:
        yield broker


@pytest.fixture
def command(broker: Broker) -> Callable[..., subprocess.Popen[str]]:
    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pigeon", "--port", str(broker.port), *arguments],
            env={**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


Command = Callable[..., subprocess.Popen[str]]


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def end_pigeon(client: Any) -> None:
    """Disconnect for good: Pigeon would connect again by itself."""
    client._connection.set_listener("listener", stomp.ConnectionListener())
    client.disconnect()


@pytest.mark.parametrize("prefix", ["", "/topic/"])
def test_pigeon_clients_reach_each_other(broker: Broker, prefix: str) -> None:
    sender, receiver = (
        Pigeon(name, port=broker.port, topic_prefix=prefix) for name in ("a", "b")
    )
    arrived = threading.Event()
    received: list[Any] = []

    def receive(message: Any, topic: str, headers: dict[str, str]) -> None:
        received.append((message.status, topic, headers["service"]))
        arrived.set()

    receiver.connect()
    receiver.subscribe("qc.status", receive)
    sender.connect()
    sender.send("qc.status", status="GOOD", reason="a:b\\c\nd")
    assert arrived.wait(10)
    assert received == [("GOOD", "qc.status", "a")]
    end_pigeon(sender)
    end_pigeon(receiver)


def test_the_bus_hears_pigeon_and_pigeon_the_bus(broker: Broker) -> None:
    client, arrived = Pigeon("plain", port=broker.port), threading.Event()
    client.connect()
    client.subscribe("state.current", lambda message: arrived.set())
    with Bus(BrokerSettings(port=broker.port), "bus") as bus:
        bus.connect()
        mark = bus.mark("qc.status")
        client.send("qc.status", status="STOP_AT_END")
        bus.wait_for("qc.status", lambda m: m.status == "STOP_AT_END", 10, since=mark)
        bus.publish("state.current", state="preview")
        assert arrived.wait(10)
    end_pigeon(client)


@pytest.mark.system
def test_pigeons_command_line_publishes_subscribes_records_and_plays(
    broker: Broker, command: Command, tmp_path: Path
) -> None:
    tape = tmp_path / "tape.json"
    subscriber = command("subscribe", "--one", "--headers", "qc.status")
    recorder = command("record", "--output", str(tape), "qc.status")
    wait_until(lambda: broker.statistics().connected == 2)
    time.sleep(0.5)  # SUBSCRIBE follows CONNECT at once, but unseen
    publisher = command("publish", "qc.status", "status: STOP_AT_END")
    assert publisher.communicate(timeout=30)
    assert publisher.returncode == 0
    sent, _ = subscriber.communicate(timeout=30)
    assert subscriber.returncode == 0
    assert "STOP_AT_END" in sent
    assert "service: CLI" in sent
    recorder.send_signal(signal.SIGINT)
    recorder.communicate(timeout=30)
    (kept,) = json.loads(tape.read_text())
    assert (kept["topic"], kept["msg"]["status"]) == ("qc.status", "STOP_AT_END")
    with Bus(BrokerSettings(port=broker.port), "bus") as bus:
        bus.connect()
        assert bus.latest("qc.status") is None
        player = command("play", "--immediate", str(tape))
        bus.wait_for("qc.status", lambda m: m.status == "STOP_AT_END", 30)
        player.communicate(timeout=30)
        assert player.returncode == 0
