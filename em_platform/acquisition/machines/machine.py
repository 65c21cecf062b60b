"""pigeon-transitions on one thread: no timer threads, no graph to redraw.

`Machine` is what states with states are made of. It differs from that of
pigeon-transitions in this:

- The time limit of a state is a timer of the coordinator's one loop, so a time-out and
  an answer never meet; it counts from when the state's request has gone out.
- Transitions do not restyle a graph that is not shown while it runs.
- An error in a callback reaches the root (`crashed`), not only the log.
- `context` is what all machines share, see `Context`.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pigeon_transitions import base
from pigeon_transitions.client import subscribe
from pigeon_transitions.machine import Machine as PigeonMachine
from transitions import core
from transitions.extensions.nesting import NestedState, NestedTransition

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.machines.loop import Timer
from em_platform.config import Settings
from em_platform.messaging.topics import Body

Definition: TypeAlias = dict[str, Any]
"""A state or a transition, as `transitions` and pigeon-transitions read it."""


@dataclass(slots=True, kw_only=True)
class Context:
    """Shared by all machines of one coordinator, as `self.context`.

    `problem` is the sentence to publish when a state called `Failure` is entered; it is
    set before. `latest` gives the newest message of a topic (None: none
    came) and `age_s` how old it is.
    """

    settings: Settings
    frames: Path
    folder: Path
    problem: str = ""
    latest: Callable[[str], Any] = field(default=lambda _: None)
    age_s: Callable[[str], float] = field(default=lambda _: math.inf)
    _numbers: Any = field(default_factory=itertools.count)

    @property
    def references(self) -> Path:
        """Folder of `bright.tiff` and `dark.tiff` of this microscope."""
        return self.frames / "references"

    def frame(self, kind: str, **flags: bool) -> Body:
        """Fields of a `camera.command` for a frame that belongs to no montage.

        `kind` (letters and '-') begins its tile id; `flags` are `brightfield`,
        `darkfield`.
        """
        now = f"{datetime.now(UTC):%Y%m%dt%H%M%S}"
        return {
            "tile_id": f"{kind}-{now}-{next(self._numbers)}",
            "montage_id": "",
            "row": 0,
            "column": 0,
            "overlap": 0,
            **flags,
        }


def context_of(settings: Settings) -> Context:
    """The context in the folders that the settings name."""
    return Context(
        settings=settings,
        frames=frames_folder(settings),
        folder=Path(settings.home).absolute() / "coordinator",
    )


Method = TypeVar("Method", bound=Callable[..., None])


def on_message(topic: str, **options: bool) -> Callable[[Method], Method]:
    """Have a method called with each message of `topic` while its machine is current.

    With `include_headers=True` it is called with the message and its headers.
    """
    decorate: Callable[[Method], Method] = subscribe(topic, **options)
    return decorate


class State(base.State):  # type: ignore[misc]
    """A state whose time limit is kept by the loop of the root machine."""

    def enter(self, event_data: Any) -> None:
        """Enter, and only then begin to count the time."""
        self.machine_enter(event_data)
        NestedState.enter(self, event_data)  # that of Timeout starts a thread
        if self.timeout > 0:
            self.arm(event_data)

    def exit(self, event_data: Any) -> None:
        """Leave; its time limit does not fire any more."""
        timer = self.runner.pop(id(event_data.model), None)
        if timer is not None:
            timer.cancel()
        NestedState.exit(self, event_data)
        self.machine_exit(event_data)

    def arm(self, event_data: Any) -> None:
        """Begin to count the time."""
        root = event_data.machine
        owner = root._get_machine(self.name)  # noqa: SLF001
        # a request knows its own: a large frame takes longer
        patience_s = getattr(type(owner), "patience_s", None)
        seconds = self.timeout if patience_s is None else patience_s(owner)
        self.runner[id(event_data.model)] = root.loop.call_later(
            seconds, lambda: self._process_timeout(event_data)
        )


class Transition(base.Transition):  # type: ignore[misc]
    """A transition that leaves the graph alone."""

    def _change_state(self, event_data: Any) -> None:
        NestedTransition._change_state(self, event_data)  # noqa: SLF001


class OneThread:
    """Mixed into a machine of pigeon-transitions: see the top of this file."""

    state_cls = State
    transition_cls = Transition
    # An attribute that is looked for before the machine is made must not be looked for
    # without end: pigeon-transitions asks the root for it.
    _parent: Any = None
    _model: Any = None
    # transitions puts a lock around each method; one thread needs none.
    __getattribute__ = object.__getattribute__

    def callback(self, func: Any, event_data: Any) -> None:
        """Run one callback; the root gets its error."""
        # past pigeon-transitions' own, which would log the error and go on
        try:
            machine: Any = self
            core.Machine.callback(machine, func, event_data)
        except Exception as error:
            self._root.crashed(error)

    def after(self, delay_s: float, act: Callable[[], None]) -> Timer:
        """Have `act` done in `delay_s` seconds, unless the timer is cancelled."""
        timer: Timer = self._root.loop.call_later(delay_s, act)
        return timer

    def _init_graphviz_engine(self, graph_engine: Any) -> Any:
        """No graph engine while it runs; `draw` makes the picture."""
        return _NoGraph

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)  # type: ignore[misc]


class _NoGraph:
    """Stands in for a graph that is never drawn."""

    def __init__(self, machine: Any) -> None:
        self._machine = machine

    def get_graph(self, **_: Any) -> None:
        """Nothing is drawn."""

    def set_node_style(self, *_: Any) -> None:
        """Nothing is drawn."""


class Machine(OneThread, PigeonMachine):  # type: ignore[misc]
    """A state with states of its own."""
