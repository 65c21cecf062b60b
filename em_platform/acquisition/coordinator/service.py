"""The coordinator as a process: a loop in its thread, fed from the bus."""

import importlib
import logging
import threading
from typing import Any

from em_platform.acquisition.coordinator.acquisition import Routines
from em_platform.acquisition.coordinator.book import Book
from em_platform.acquisition.coordinator.loading import Loader
from em_platform.acquisition.coordinator.root import Coordinator
from em_platform.acquisition.coordinator.session import Session
from em_platform.acquisition.coordinator.teller import Teller
from em_platform.acquisition.machines.bench import Bench, bench_of
from em_platform.acquisition.machines.client import BusClient
from em_platform.acquisition.machines.loop import Loop
from em_platform.config import Settings
from em_platform.errors import AcquisitionError
from em_platform.messaging.bus import Bus
from em_platform.messaging.service import run_service

log = logging.getLogger(__name__)

_END_S = 2.0  # as long as the column may take to put the screen down


class CoordinatorService:
    """Runs the machine in a thread until it is closed."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        # Each transition and each trigger without effect would be a line of its log.
        logging.getLogger("transitions").setLevel(logging.ERROR)
        self._loop = Loop()
        self._client = BusClient(bus, self._loop)
        bench = bench_of(settings)
        bench.latest, bench.age_s = self._client.latest, self._client.age_s
        routines = installed_routines()
        session = Session(
            bench,
            Book(bench.folder / "session.json"),
            Teller(self._client.send),
            available=frozenset(routines),
        )
        loader = Loader(settings, session, self._loop)
        self.machine = machine_of(
            self._loop, bench, session, routines, load=loader.load
        )
        self.machine.add_client(self._client)
        self._client.listen()
        self._loop.put(self.machine.begin)
        self._thread = threading.Thread(
            target=self._loop.run, name="coordinator", daemon=True
        )
        self._thread.start()

    def tick(self) -> None:
        """See that the loop lives.

        Raises
        ------
        AcquisitionError
            Its thread has ended; the process must be started again.
        """
        if not self._thread.is_alive():
            raise AcquisitionError("coordinator: its loop has ended; start it again")

    def close(self) -> None:
        """Rest, put the screen down, end the loop."""
        self._client.closing.set()
        self._loop.put(self.machine.end)
        self._loop.put(self._await_off)
        self._thread.join(_END_S)
        self._loop.stop()
        self._thread.join(_END_S)

    def _await_off(self) -> None:
        if self.machine.is_off:
            self._loop.stop()
        else:
            self._loop.call_later(0.02, self._await_off)


def machine_of(
    loop: Loop, bench: Bench, session: Session, routines: Routines, **options: Any
) -> Coordinator:
    """The whole machine."""
    return Coordinator(
        loop=loop, bench=bench, session=session, routines=routines, **options
    )


def installed_routines() -> Routines:
    """The calibration routines that there are."""
    module = importlib.import_module("em_platform.acquisition.routines")
    found: Routines = getattr(module, "ROUTINES", {})
    return found


def run(settings: Settings, *, name: str) -> None:
    """Run the coordinator until SIGTERM or SIGINT."""
    run_service(
        name,
        settings.broker,
        setup=lambda bus: CoordinatorService(bus, settings),
        tick_s=0.5,
    )
