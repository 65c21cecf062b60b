"""The coordinator as a process: a loop in its thread, fed from the bus."""

import logging
import threading

from em_platform.acquisition.coordinator.acquisition import Routines
from em_platform.acquisition.coordinator.loading import Loader
from em_platform.acquisition.coordinator.names import STATES
from em_platform.acquisition.coordinator.publisher import Publisher
from em_platform.acquisition.coordinator.registry import Registry
from em_platform.acquisition.coordinator.root import Coordinator
from em_platform.acquisition.coordinator.session import Session
from em_platform.acquisition.machines.client import BusClient
from em_platform.acquisition.machines.context import Context, context_of
from em_platform.acquisition.machines.loop import Loop
from em_platform.acquisition.routines import ROUTINES
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
        context = context_of(settings)
        context.latest, context.age_s = self._client.latest, self._client.age_s
        self.machine = machine_of(
            settings, context, loop=self._loop, publisher=Publisher(self._client.send)
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
    settings: Settings, context: Context, *, loop: Loop, publisher: Publisher
) -> Coordinator:
    """The whole machine, with the session that its folder's registry holds."""
    routines = installed_routines()
    session = Session(
        context,
        Registry(context.folder / "session.json"),
        publisher,
        available=frozenset(routines),
    )
    loader = Loader(settings, session, loop)
    return Coordinator(
        loop=loop, context=context, session=session, routines=routines, load=loader.load
    )


def installed_routines() -> Routines:
    """The calibration routines that there are."""
    return {
        name: ROUTINES[state] for name, state in STATES.items() if state in ROUTINES
    }


def run(settings: Settings, *, name: str) -> None:
    """Run the coordinator until SIGTERM or SIGINT."""
    run_service(
        name,
        settings.broker,
        setup=lambda bus: CoordinatorService(bus, settings),
        tick_s=0.5,
    )
