"""Quality control is killed: it comes back with its verdict, and judges none twice."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.recorder import ledger_of
from em_platform.config import BrokerSettings, Settings
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus
from em_platform.processes.fork_server import NewPythons
from tests.rig import Process, running_service

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


def running(
    name: str, home: Path, port: int, programs: NewPythons | None = None
) -> AbstractContextManager[Process]:
    """The process, when it serves; killed after the block."""
    environment = {
        **os.environ,
        "EM_HOME": str(home),
        "EM_BROKER__PORT": str(port),
        "EM_ACQUISITION__QC__PERIOD_S": "0.2",
    }
    log = home / f"{name}.log"
    return running_service(name, environment=environment, log=log, programs=programs)


def tile(n: int, topic: str, **own: Any) -> dict[str, Any]:
    fields = {"tile_id": f"m-1_000_{n:03d}", "montage_id": "m", "row": 0, "column": n}
    return {"topic": topic, **fields, "overlap": 10, **own}


def blurred(n: int) -> list[dict[str, Any]]:
    """All that the pipeline says about a blurred tile."""
    return [
        tile(n, "tile.raw", path="/nowhere.tiff"),
        tile(n, "tile.statistics.min_max_mean", min=0, max=255, mean=120, std=30),
        tile(n, "tile.statistics.focus", focus=0.99),
        tile(n, "tile.statistics.histogram", hist=[0, 100, 0]),
        tile(n, "tile.template_matches", matches=[]),
        tile(n, "tile.matches", matches=[]),
    ]


def recorded(home: Path) -> int:
    """How many verdicts the ledger holds."""
    with ledger_of(Settings(home=home)) as ledger:
        return len(ledger.verdicts("m", "m-1"))


def test_a_killed_quality_control_comes_back_with_its_stop(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    with Broker(BrokerSettings(port=0)) as broker:
        with (
            running("recorder", tmp_path, broker.port),
            Bus(BrokerSettings(port=broker.port), "pipeline") as bus,
        ):
            bus.connect()
            statuses: list[Any] = []
            judged: list[Any] = []
            stopped = threading.Event()

            def on_status(message: Any, _: Any) -> None:
                statuses.append(message)
                if message.status == "STOP_AT_END":
                    stopped.set()

            def say(bodies: list[dict[str, Any]]) -> None:
                for body in bodies:
                    fields = dict(body)
                    bus.publish(fields.pop("topic"), **fields)

            bus.subscribe("qc.status", on_status)
            bus.subscribe("qc.tile", lambda message, _: judged.append(message))
            with running("qc", tmp_path, broker.port, NewPythons()) as process:
                for n in range(6):
                    say(blurred(n))
                say(blurred(6)[:-1])  # its matches come after the kill
                assert stopped.wait(60)
                wait_until(lambda: len(judged) == 6, timeout_s=30)
                # A verdict that was sent and not yet recorded would be sent again.
                wait_until(lambda: recorded(tmp_path) == 6, timeout_s=30)
                os.kill(process.pid, signal.SIGKILL)
                process.wait(30)
            statuses.clear()
            with running("qc", tmp_path, broker.port):
                wait_until(lambda: bool(statuses), timeout_s=30)
                assert statuses[0].status == "STOP_AT_END"
                assert "out of focus" in statuses[0].reason
                for n in range(7):
                    say(blurred(n))
                wait_until(lambda: len(judged) == 7, timeout_s=30)
                bus.publish("ui.run", resume=True)
                wait_until(lambda: statuses[-1].status == "GOOD", timeout_s=30)
            with running("qc", tmp_path, broker.port):
                count = len(statuses)
                wait_until(lambda: len(statuses) > count + 2, timeout_s=30)
                assert statuses[-1].status == "GOOD"
    assert [message.column for message in judged] == list(range(7))
