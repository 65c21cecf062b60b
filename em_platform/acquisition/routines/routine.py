"""A calibration as a state machine: its steps are requests to the devices.

{ Computing <-> Column, Camera, Move, Capture } -> Success | Failure

The calibration itself is a generator (see `routines.steps`). It computes in a thread of
its own, so that a stop is received meanwhile.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from em_platform.acquisition.machines.machine import Definition, Machine
from em_platform.acquisition.machines.requests import (
    Capture,
    MoveStage,
    SetCamera,
    SetScope,
)
from em_platform.acquisition.routines.steps import (
    Calibration,
    Camera,
    Column,
    Fields,
    Frame,
    Move,
    Outcome,
    Step,
)
from em_platform.config import AcquisitionSettings
from em_platform.errors import PlatformError
from em_platform.formats import read_image, write_tiff
from em_platform.messaging.topics import Body

log = logging.getLogger(__name__)

_TRIGGERS = {Column: "ask_column", Camera: "ask_camera", Move: "move", Frame: "expose"}
# What a calibration may change, and is put back when it fails.
_COLUMN = ("focus", "mag_mode", "mag", "brightness", "beam_offset", "spot_size")


class Routine(Machine):
    """One calibration; a subclass names it.

    When it fails or is left before its end it puts the column and the camera back as
    they were. The screen is raised again after a failure, but not when it is left. When
    it is left for a stop it commands nothing: it then puts back what it changed before
    it begins again.
    """

    kind: ClassVar[str] = "routine"
    """Begins the names of its frames."""
    frame_state: ClassVar[str] = "Capture"
    puts_back: ClassVar[bool] = True

    def __init__(self, settings: AcquisitionSettings, **options: Any) -> None:
        self._settings = settings
        self._steps: Calibration | None = None
        self._step: Any = None
        self._answer: Any = None
        self._run = 0
        self._undo: dict[str, Fields] = {}
        super().__init__(
            states=[
                {"name": "Computing", "on_enter": self._compute},
                self._asks("Column", SetScope),
                self._asks("Camera", SetCamera),
                self._asks("Move", MoveStage),
                self._asks(self.frame_state, Capture),
                "Success",
                {"name": "Failure", "on_enter": self._failed},
            ],
            initial="Computing",
            transitions=[
                ["ask_column", "Computing", "Column"],
                ["ask_camera", "Computing", "Camera"],
                ["move", "Computing", "Move"],
                ["expose", "Computing", self.frame_state],
                ["finish", "Computing", "Success"],
                ["give_up", "Computing", "Failure"],
                ["resume", "Failure", "Computing"],
            ],
            on_enter=self._begin,
            on_exit=self._leave,
            **options,
        )

    def calibration(self) -> Calibration:
        """The steps of this routine."""
        raise NotImplementedError

    def found(self, outcome: Outcome) -> None:
        """Write and publish what was found."""
        for name, image in outcome.references.items():
            write_tiff(self.context.references / f"{name}.tiff", image)
        for topic, fields in outcome.messages.items():
            self.client.send(topic, **fields)

    def _asks(self, name: str, request: Callable[..., Any]) -> Definition:
        return {
            "name": name,
            "children": request(self._settings, self._asked, answered=self._take),
            "remap": {"Success": "Computing", "Failure": "Failure"},
        }

    def _begin(self) -> None:
        self._steps, self._answer = None, None

    def _compute(self) -> None:
        """Let the calibration work out its next step."""
        if self._steps is None:
            self._steps = self._remembering()
        # by it a result is known that comes after the state was left
        self._run += 1
        run, steps, answer = self._run, self._steps, self._answer
        self._answer = None

        def work() -> None:
            result: Step | Outcome | Exception
            try:
                result = steps.send(_read(answer))
            except StopIteration as end:
                result = end.value
            except Exception as error:  # the machine reports it to the operator
                result = error
            self._root.loop.put(lambda: self._go_on(run, result))

        threading.Thread(target=work, name=self.kind, daemon=True).start()

    def _go_on(self, run: int, result: Step | Outcome | Exception) -> None:
        if run != self._run or self.get_machine_state() != "Computing":
            return  # it was left meanwhile
        if isinstance(result, Outcome):
            try:
                self.found(result)
            except PlatformError as error:
                self._give_up(error)
                return
            log.info("%s", result.sentence)
            self._steps, self._undo = None, {}
            self.finish()
        elif isinstance(result, Exception):
            self._give_up(result)
        else:
            self._step = result
            self.trigger_step(_TRIGGERS[type(result)])

    def trigger_step(self, name: str) -> None:
        """Go to the state that asks for the step."""
        getattr(self, name)()

    def _give_up(self, error: Exception) -> None:
        if not isinstance(error, PlatformError):
            log.error("%s failed", self.kind, exc_info=error)
        self.context.problem = str(error) or type(error).__name__
        self.give_up()

    def _asked(self) -> Body:
        """The fields of the step's message."""
        step = self._step
        if isinstance(step, Frame):
            # kept: `_take` publishes the same fields
            self._step = self.context.frame(self.kind, **step.flags)
            return dict(self._step)
        if isinstance(step, Move):
            there = {"x": step.x_nm, "y": step.y_nm}
            return {axis: nm for axis, nm in there.items() if nm is not None}
        return dict(step.fields)

    def _take(self, answer: Any) -> None:
        self._answer = answer
        if isinstance(answer, Path):
            # the page shows what the calibration sees
            self.client.send("tile.raw", **self._step, path=str(answer))

    def _remembering(self) -> Calibration:
        """The steps of the calibration, after a look at what is to be put back."""
        if "scope.command" in self._undo:
            # a stop broke it off: what it had set is not what was there before
            yield Column(fields=self._undo["scope.command"])
            yield Camera(fields=self._undo["camera.settings"])
        elif self.puts_back:
            column = yield Column()
            camera = yield Camera()
            fields = {name: getattr(column, name) for name in (*_COLUMN, "screen")}
            self._undo = {
                "scope.command": fields,
                "camera.settings": {"exposure": camera.exposure},
            }
        return (yield from self.calibration())

    def _failed(self) -> None:
        self._put_back()
        # a generator that has raised cannot go on: a retry begins anew
        self._steps = None

    def _leave(self) -> None:
        self._run += 1
        if self._steps is not None and "scope.command" in self._undo:
            # whoever left it decides whether the specimen is lit
            self._undo["scope.command"].pop("screen", None)
            # when the transition is over: only then the state names what comes next
            self.after(0.0, self._put_back_unless_stopped)
        self._steps = None

    def _put_back_unless_stopped(self) -> None:
        if self._steps is None and not is_stopped(self.state):
            self._put_back()

    def _put_back(self) -> None:
        undo, self._undo = self._undo, {}
        for topic, fields in undo.items():
            # the root's: `self.client` refuses a machine that was left
            self._root.client.send(topic, **fields)


def is_stopped(state: str) -> bool:
    """Whether the coordinator was stopped: nothing is to be commanded then."""
    return "Stopped" in state.split("_")


def _read(answer: Any) -> Any:
    """The pixels of a frame's path; anything else as it is."""
    return read_image(str(answer)) if isinstance(answer, Path) else answer
