"""The frame of a service process: broker, work, and a clean end on a signal."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from em_platform.config import BrokerSettings
from em_platform.errors import BrokerUnavailable, is_own_fault
from em_platform.messaging.bus import Bus
from em_platform.storage.own_faults import OwnFaults

log = logging.getLogger(__name__)

_CONNECT_STEP_S = 1.0  # so soon a SIGTERM ends the wait for a broker


class Service(Protocol):
    """What a service process does beside handling messages."""

    def tick(self) -> None:
        """Do what is due; called again and again."""

    def close(self) -> None:
        """Finish; the bus is still open."""


def run_service(
    name: str,
    settings: BrokerSettings,
    *,
    setup: Callable[[Bus], Service],
    tick_s: float = 1.0,
) -> None:
    """Run one service until SIGTERM or SIGINT.

    Waits for the broker without end, calls `setup(bus)`, which subscribes its handlers,
    prints `ready <name>` and calls `tick` every `tick_s`. An error of `tick` is logged
    where the broker is only away or this computer fails, and otherwise ends the
    service.
    """
    faults, pause_s = OwnFaults(name), tick_s
    with stop_signals() as stop, Bus(settings, name) as bus:
        if not _connect(bus, stop):
            return
        service = setup(bus)
        try:
            report_ready(name)
            while not stop.wait(pause_s):
                pause_s = tick_s
                try:
                    service.tick()
                except BrokerUnavailable as error:
                    log.warning("%s", error)
                except Exception as error:
                    if not is_own_fault(error):
                        raise
                    pause_s = faults.pause_s(error)
                else:
                    faults.over()
        finally:
            service.close()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets while the block lasts."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report_ready(name: str) -> None:
    """Report to the parent process that this one serves."""
    sys.stdout.write(f"ready {name}\n")
    sys.stdout.flush()


def _connect(bus: Bus, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            bus.connect(_CONNECT_STEP_S)
        except BrokerUnavailable as error:
            # A wrong password does not mend itself by waiting.
            if error.facts.get("refused"):
                raise
            continue
        return True
    return False
