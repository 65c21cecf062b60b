"""Requests to the devices: asked again until answered, `Success` or `Failure`.

Each is a machine { Request -> Success | Failure } to be put into a larger one:

    {
        "name": "Capture",
        "children": Capture(settings, self._frame, answered=self._measure),
        "remap": {"Success": "Measured"},
    }

A request is made by a function, so it is asked for when the state is entered. The
time limit (`acquisition.request_timeout_s`) counts from when it has gone out;
`acquisition.request_tries` times it is sent. Every request may be sent twice without
harm: a device that has done it reports so again. `Failure` stays until `resume`. An
answer that this computer cannot keep waits in `Noting`; its device is not asked again.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pigeon_transitions.machines import FunctionMachine

from em_platform.acquisition.frame_paths import frame_path
from em_platform.acquisition.machines.machine import OneThread, on_message
from em_platform.config import AcquisitionSettings
from em_platform.errors import PlatformError, is_own_fault
from em_platform.messaging.topics import Body
from em_platform.storage.own_faults import OwnFaults

Ask = Callable[[], Body]
Answered = Callable[[Any], None]

# Both as PyJEM_Service decides `in_motion`: 125 nm, 0.2 degrees.
CLOSE_NM = 125
"""As near as the stage and the camera take for the same place."""

CLOSE_RAD = math.radians(0.2)
"""As near as the stage takes for the same angle."""


_S_PER_PX = 3e-6  # a frame may take so much longer per pixel
_STALE_S = 0.2  # an error reported sooner may be one from before the request


def nothing(_: Any) -> None:
    """For a request whose answer is not needed."""


class Request(OneThread, FunctionMachine):  # type: ignore[misc]
    """Sends `topic` until `accepts` takes a message; see the top of this file.

    Parameters
    ----------
    ask
        Gives the fields of the message; called when the state is entered.
    answered
        Called with the accepted answer, before `Success`; a PlatformError that it
        raises is the reason of a `Failure`.
    tries
        How often it is sent; None as in the settings.
    """

    topic: ClassVar[str]
    answer: ClassVar[str]

    def __init__(
        self,
        settings: AcquisitionSettings,
        ask: Ask,
        *,
        answered: Answered = nothing,
        tries: int | None = None,
        **options: Any,
    ) -> None:
        self._ask = ask
        self._answered = answered
        self._settings = settings
        self._asked: Body = {}
        self._asked_s = 0.0
        self._refusal = ""
        self._noted: Any = None
        self._faults = OwnFaults("coordinator")
        super().__init__(
            retries=tries or settings.request_tries,
            timeout=settings.request_timeout_s,
            **options,
        )
        self.add_states("Noting")
        # a FunctionMachine fails only when its tries are used up
        self.add_transition("fail", ["Request", "Noting"], "Failure")
        self.add_transition("put_off", "Request", "Noting")
        self.add_transition("success", "Noting", "Success")

    def patience_s(self) -> float:
        """How long one try waits for its answer."""
        return self._settings.request_timeout_s

    def request(self) -> None:
        """Send it."""
        self._refusal = ""
        try:
            # once: a retry sends the same fields, such as the id of the frame
            if self._retries_remaining == self._retries - 1:
                self._asked = self._ask()
            self.send()
        except PlatformError as error:
            self._refusal = str(error)
            self.fail()
        # after the send, which may wait long for the broker
        self._asked_s = time.monotonic()

    def send(self) -> None:
        """Publish the command."""
        self.client.send(self.topic, **self._asked)

    def accepts(self, message: Any) -> bool:
        """Whether the message reports that it is done."""
        raise NotImplementedError

    def result(self, message: Any) -> Any:
        """What `answered` is given of the accepted message."""
        return message

    def judge(self, message: Any) -> None:
        """Take a message for the answer, or for a refusal, or for neither."""
        # messages come in Failure, too, where nothing is awaited
        if self.get_machine_state() != "Request":
            return
        if self.accepts(message):
            self.take(message)
            return
        error = getattr(message, "error", "")  # not every status has one
        if error and time.monotonic() - self._asked_s > _STALE_S:
            self._refusal = error
            self._retry()

    def take(self, message: Any) -> None:
        """Hand the accepted answer on."""
        try:
            self._answered(self.result(message))
        except PlatformError as error:
            if is_own_fault(error):
                self._note_later(message, error)
                return
            self._refusal = str(error)
            self.fail()
        else:
            self._faults.over()
            self.success()

    def _note_later(self, message: Any, error: PlatformError) -> None:
        """Try to keep the answer again: it came, and the device need not be asked.

        A frame that was exposed is not exposed once more.
        """
        if self.get_machine_state() == "Request":
            self.put_off()
            sentence = f"{error}; it is tried again"
            # Of no montage: this one is not at its end.
            trouble = {"montage_id": "", "state": "error", "error_message": sentence}
            self.client.send("montage.status", **trouble)
        self._noted = message

        def again() -> None:
            # Given up, or another answer meanwhile.
            if self.get_machine_state() == "Noting" and self._noted is message:
                self.take(message)

        self.after(self._faults.pause_s(error), again)

    def _log_failure(self) -> None:
        asked = ", ".join(
            f"{name} {value}"
            for name, value in self._asked.items()
            if value is not None
        )
        tries = "1 try" if self._retries == 1 else f"{self._retries} tries"
        last = self.context.latest(self.answer)
        self.context.problem = self._refusal or (
            f"coordinator: {self.topic} ({asked}) was not answered by {self.answer} in "
            f"{tries} of {self.patience_s():.1f} s, the last one was: "
            f"{last if last is not None else 'none'}; see that the device runs"
        )

    def _log_retry(self) -> None:
        self._logger.warning("%s %s is asked again", self.topic, dict(self._asked))


class SetScope(Request):
    """`scope.command`; done when `scope.status` has each of the asked values."""

    topic, answer = "scope.command", "scope.status"

    def accepts(self, message: Any) -> bool:
        """Whether the column is as it was asked."""
        return _has(message, self._asked)

    @on_message("scope.status")
    def _on_status(self, status: Any) -> None:
        self.judge(status)


class SetCamera(Request):
    """`camera.settings` (exposure in us, gain in dB); no fields: only its status."""

    topic, answer = "camera.settings", "camera.status"

    def accepts(self, message: Any) -> bool:
        """Whether the camera is as it was asked."""
        return _has(message, self._asked)

    @on_message("camera.status")
    def _on_status(self, status: Any) -> None:
        self.judge(status)


class MoveStage(Request):
    """`stage.motion.command` (x, y in nm); done when the stage rests there."""

    topic, answer = "stage.motion.command", "stage.motion.status"

    def accepts(self, message: Any) -> bool:
        """Whether the stage rests at the asked place."""
        return rests_at(message, self._asked.get("x"), self._asked.get("y"))

    @on_message("stage.motion.status")
    def _on_status(self, status: Any) -> None:
        self.judge(status)


class ChangeAperture(Request):
    """`stage.aperture.command` (aperture_id); done when the stage holds it."""

    topic, answer = "stage.aperture.command", "stage.aperture.status"

    def accepts(self, message: Any) -> bool:
        """Whether the asked aperture is under the beam."""
        return bool(message.current_aperture == self._asked["aperture_id"])

    @on_message("stage.aperture.status")
    def _on_status(self, status: Any) -> None:
        self.judge(status)


class TiltStage(Request):
    """`stage.rotation.command` (angle_x in rad); done when the stage rests there."""

    topic, answer = "stage.rotation.command", "stage.rotation.status"

    def accepts(self, message: Any) -> bool:
        """Whether the stage rests at the asked angles."""
        if message.in_motion:
            return False
        return all(
            abs(getattr(message, name) - value) <= CLOSE_RAD
            for name, value in self._asked.items()
            if name in ("angle_x", "angle_y")
        )

    @on_message("stage.rotation.status")
    def _on_status(self, status: Any) -> None:
        self.judge(status)


class Capture(Request):
    """`camera.command` (see `Context.frame`); the answer is the frame's path."""

    topic, answer = "camera.command", "camera.image"

    def patience_s(self) -> float:
        """Longer by the exposure, and for large frames."""
        status = self.context.latest("camera.status")
        if status is None:
            return super().patience_s()
        own_s: float = status.exposure / 1e6  # from us
        own_s += status.height * status.width * _S_PER_PX
        return super().patience_s() + own_s

    def accepts(self, message: Any) -> bool:
        """Whether it is the asked frame."""
        return bool(message.tile_id == self._asked["tile_id"])

    def result(self, message: Any) -> Path:
        """Where the frame was saved."""
        return frame_path(self.context.frames, message.montage_id, message.tile_id)

    @on_message("camera.image")
    def _on_image(self, image: Any) -> None:
        self.judge(image)


def rests_at(status: Any, x_nm: int | None, y_nm: int | None) -> bool:
    """Whether by a `stage.motion.status` the stage rests at a place."""
    if status.in_motion:
        return False
    asked = ((status.x, x_nm), (status.y, y_nm))
    return all(
        wanted is None or (is_at is not None and abs(is_at - wanted) <= CLOSE_NM)
        for is_at, wanted in asked
    )


def _has(status: Any, asked: Body) -> bool:
    return all(getattr(status, name) == value for name, value in asked.items())
