"""The coordinator's root machine { Preview, Acquisition, Shutdown } and its process."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from em_platform.acquisition.coordinator.acquisition import Acquisition, Routines
from em_platform.acquisition.coordinator.control import Control
from em_platform.acquisition.coordinator.intake import Loader
from em_platform.acquisition.coordinator.preview import Preview
from em_platform.acquisition.coordinator.publisher import Publisher
from em_platform.acquisition.coordinator.registry import Registry
from em_platform.acquisition.coordinator.requirements import STATES
from em_platform.acquisition.coordinator.session import Session
from em_platform.acquisition.machines.loop import BusClient, Loop
from em_platform.acquisition.machines.machine import Context, context_of
from em_platform.acquisition.machines.requests import SetScope
from em_platform.acquisition.routines import ROUTINES
from em_platform.config import Settings
from em_platform.errors import AcquisitionError, PlatformError
from em_platform.messaging.bus import Bus
from em_platform.messaging.service import run_service

log = logging.getLogger(__name__)

_STATUS_PERIOD_S = 2.0  # a page that was opened late shows the queue after so long
_FRESH_S = 3.0  # devices publish each second: two lost statuses are passed over
_DEVICES = ("camera.status", "stage.motion.status", "scope.status")


class Coordinator(Control):
    """The root machine; all its methods run in the loop's thread.

    Parameters
    ----------
    load
        Answers a `roi.load` message.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        context: Context,
        session: Session,
        routines: Routines,
        load: Callable[[Any], None],
    ) -> None:
        settings = context.settings.acquisition
        self.loop = loop
        self.context = context
        self.session = session
        self.load = load
        self.log_transitions = False  # read by pigeon-transitions
        self._published = ""
        self._is_off = False
        self._starts_itself = session.registry.state.mode != "preview"
        super().__init__(
            states=[
                {"name": "Preview", "children": Preview(settings, routines)},
                {"name": "Acquisition", "children": Acquisition(settings, routines)},
                {
                    "name": "Shutdown",
                    "children": SetScope(
                        settings,
                        lambda: {"screen": "down"},
                        answered=lambda _: self._switched_off(),
                    ),
                },
            ],
            transitions=[
                {"trigger": "start", "source": "Preview", "dest": "Acquisition"},
                {"trigger": "leave", "source": "Acquisition", "dest": "Preview"},
                {
                    "trigger": "halt",
                    "source": "Acquisition",
                    "dest": "Acquisition_Stopped",
                },
                {
                    "trigger": "shutdown",
                    "source": ["Preview", "Acquisition"],
                    "dest": "Shutdown",
                },
            ],
            initial="Preview",
            queued=True,  # a trigger inside a callback waits for the transition's end
            ignore_invalid_triggers=True,  # the operator may press what makes no sense
            after_state_change=self._changed,
        )

    def begin(self) -> None:
        """Enter the first state; an interrupted session resumes by itself."""
        if self.session.registry.state.mode == "paused":
            self.session.pause_wanted = True  # it rested: only the operator goes on
        self._start()
        self._publish_state()
        self.tick()

    def tick(self) -> None:
        """Publish its state periodically."""
        self.after(_STATUS_PERIOD_S, self.tick)
        self.session.publish_status()
        self._published = ""
        self._publish_state()
        # killed while it imaged: the operator need not be there at night
        if self._starts_itself and not self.is_imaging():
            self._start_again()

    def end(self) -> None:
        """Shut the microscope down: the session rests, the beam is off."""
        if self.is_imaging() and not self.rests():
            self.session.paused()
        self.shutdown()

    @property
    def is_off(self) -> bool:
        """Whether the beam is off after `end`."""
        return self._is_off

    def crashed(self, error: Exception) -> None:
        """What to do with an error that no state has dealt with."""
        if isinstance(error, PlatformError):
            log.error("%s", error)
            self.context.problem = str(error)
        else:
            log.error("coordinator: an error in %s", self.state, exc_info=error)
            self.context.problem = (
                f"coordinator: {type(error).__name__} in {self.state}: {error}; see "
                "its log, then retry"
            )
        if self.is_imaging() and not self.rests():
            self.fail()

    def _message_callback(self, topic: str, msg: Any, extra: Any = None) -> None:
        """Hand a message to every machine of the present state, the deepest first."""
        for machine in self._get_current_machines():
            for subscription in machine._subscriptions.get(topic, []):  # noqa: SLF001
                try:
                    self._client.run_callback(subscription, topic, msg, extra)
                except Exception as error:  # of one handler; the others still get it
                    self.crashed(error)

    def _start_again(self) -> None:
        """Go on with an interrupted session, once the devices answer."""
        state = self.session.registry.state
        if state.mode == "preview" or not self.session.registry.has_work():
            self._starts_itself = False
        elif all(self.context.age_s(topic) < _FRESH_S for topic in _DEVICES):
            log.info("coordinator: resumes the interrupted session")
            self._starts_itself = False
            self.start()

    def _changed(self) -> None:
        # a step inside a state changes nothing for the page
        if self.state == self._published:
            return
        self._publish_state()
        if not self.state.endswith("_Failure"):
            return
        if "_Stopped_" in self.state:
            self.session.halted()
        elif self.is_imaging():
            self.session.failed(self.context.problem)
        else:
            self.session.preview_failed(self.context.problem)

    def _publish_state(self) -> None:
        self._published = self.state
        self.session.publisher.state(self.state)

    def _switched_off(self) -> None:
        self._is_off = True


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
        # First in the queue: a machine that has not begun has no state for a message.
        self._loop.put(self.machine.begin)
        # Before the loop runs: the answer to the first request must not be missed.
        self._client.listen()
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
        # a send that waits for the broker would hold up all that follows
        self._client.closing.set()
        # first the order to rest, then the wait for the screen: the loop keeps order
        self._loop.put(self.machine.end)
        self._loop.put(self._await_off)
        self._thread.join(_END_S)
        # where no column answers it ends all the same
        self._loop.stop()
        self._thread.join(_END_S)

    def _await_off(self) -> None:
        if self.machine.is_off:
            self._loop.stop()
        else:
            # not a wait: the status that ends it comes through the same loop
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
