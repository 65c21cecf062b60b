"""A broker, buses and devices within the test process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from em_platform.config import (
    AcquisitionSettings,
    BrokerSettings,
    Settings,
    SimulationSettings,
)
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus


@pytest.fixture
def brokers() -> Iterator[list[Broker]]:
    """The broker that runs; the last of the list where it was restarted."""
    running = [Broker(BrokerSettings(port=0))]
    running[0].start()
    yield running
    running[-1].stop()


@pytest.fixture
def restart_broker(brokers: list[Broker]) -> Callable[[], None]:
    """Stop the broker and, a moment later, start another at the same port."""

    def restart() -> None:
        port = brokers[-1].port
        brokers[-1].stop()
        time.sleep(0.5)
        brokers.append(Broker(BrokerSettings(port=port)))
        brokers[-1].start()

    return restart


@pytest.fixture
def rig_settings(tmp_path: Path, brokers: list[Broker]) -> Settings:
    """Small, fast devices and an embedded broker that runs for the test."""
    return Settings(
        home=tmp_path,
        broker=BrokerSettings(port=brokers[0].port),
        acquisition=AcquisitionSettings(
            rows=2,
            columns=2,
            request_timeout_s=2.0,
            request_tries=3,
            simulation=SimulationSettings(
                tile_px=64, exposure_ms=5.0, jitter_px=3.0, stage_settle_ms=5.0
            ),
        ),
    )


@pytest.fixture
def open_bus(rig_settings: Settings) -> Iterator[Callable[[str], Bus]]:
    """Give a connected bus; all are closed after the test."""
    with ExitStack() as stack:

        def connect(name: str) -> Bus:
            bus = stack.enter_context(Bus(rig_settings.broker, name))
            bus.connect(5.0)
            return bus

        yield connect


@pytest.fixture
def serve(open_bus: Callable[[str], Bus]) -> Iterator[Callable[..., Any]]:
    """Run a device as its process would: handlers, and ticks in a thread."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    devices: list[Any] = []

    def start(kind: Any, settings: Settings, *, tick_s: float = 0.02) -> Any:
        device = kind(open_bus(kind.__name__.lower()), settings)

        def run() -> None:
            while not stop.wait(tick_s):
                device.tick()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        devices.append(device)
        return device

    yield start
    stop.set()
    for thread in threads:
        thread.join(5)
    for device in devices:
        device.close()
