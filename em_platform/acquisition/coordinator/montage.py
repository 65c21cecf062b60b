"""Prepares the column, and Montage { Begin, MoveStage, CaptureTile, Complete }."""

import time
from collections.abc import Callable
from typing import Any

from em_platform.acquisition.machines.machine import Machine, on_message
from em_platform.acquisition.machines.requests import (
    Capture,
    MoveStage,
    SetCamera,
    SetScope,
)
from em_platform.acquisition.raster import Stop
from em_platform.acquisition.roi import RoiFields
from em_platform.config import AcquisitionSettings
from em_platform.errors import PlatformError


class CheckConditions(Machine):
    """Whether the region may be imaged; `Failure` stays until `resume`."""

    def __init__(self) -> None:
        super().__init__(
            states=[
                {"name": "Check", "on_enter": self._check},
                "Success",
                "Failure",
            ],
            transitions=[
                {"trigger": "success", "source": "Check", "dest": "Success"},
                {"trigger": "fail", "source": "Check", "dest": "Failure"},
                {
                    "trigger": "resume",
                    "source": "Failure",
                    "dest": "Check",
                    "before": "forgive",
                },
            ],
            initial="Check",
        )

    def forgive(self) -> None:
        """Count errors anew: the operator has seen them."""
        self.session.errors = 0

    def _check(self) -> None:
        session = self.session
        sentence = session.requirements.problem(
            errors=session.errors, beam_mean=session.beam_mean
        )
        if sentence:
            self.context.problem = sentence
            self.fail()
        else:
            self.success()


class Prepare(Machine):
    """Sets magnification and screen, and asks the camera for its state."""

    def __init__(self, settings: AcquisitionSettings) -> None:
        super().__init__(
            states=[
                {
                    "name": "SetScope",
                    "children": SetScope(
                        settings, lambda: self.session.requirements.column()
                    ),
                    "remap": {"Success": "AskCamera"},
                },
                {
                    "name": "AskCamera",
                    # no fields: a plan needs only the frame size of its status
                    "children": SetCamera(settings, lambda: {}),
                    "remap": {"Success": "Success"},
                },
                "Success",
            ],
            initial="SetScope",
        )


_FRESH_S = 1.5  # a stage at rest publishes its status each second


# Between MoveStage, CaptureTile and the rest: the remaps in Montage._states.
_TRANSITIONS = [
    {
        "trigger": "begun",
        "source": "Begin",
        "dest": "MoveStage",
        "conditions": "has_more",
    },
    {"trigger": "begun", "source": "Begin", "dest": "Complete"},
    {"trigger": "resume", "source": "Paused", "dest": "MoveStage"},
    {"trigger": "fail", "source": ["Begin", "Complete"], "dest": "Failure"},
    {"trigger": "completed", "source": "Complete", "dest": "Success"},
    {"trigger": "resume", "source": "Failure", "dest": "Begin"},
]


class MoveToTile(MoveStage):
    """Moves to the next tile, unless the stage was sent there during the exposure."""

    def __init__(self, settings: AcquisitionSettings, **options: Any) -> None:
        super().__init__(
            settings,
            lambda: target_of(self.session.imaging.stop),
            answered=self._arrived,
            **options,
        )

    def send(self) -> None:
        """Publish the command, unless it is on its way."""
        target = (self._asked["x"], self._asked["y"])
        # sent twice it would begin anew, and settle twice
        if self.session.sent_to_nm != target:
            super().send()
        self.session.sent_to_nm = None

    def request(self) -> None:
        """Move; done at once where the stage has arrived already."""
        super().request()
        status = self.context.latest(self.answer)
        # an older status may be from before the stage was moved by hand
        is_fresh = self.context.age_s(self.answer) < _FRESH_S
        if status is not None and is_fresh and self.accepts(status):
            self.take(status)

    def _arrived(self, status: Any) -> None:
        # where it truly rests, up to CLOSE_NM from where it was sent
        self.session.imaging.place_nm = (status.x, status.y)


class CaptureTile(Capture):
    """Exposes the next tile; the stage moves on as soon as the exposure has ended.

    It is tried once: after a time-out the stage must be brought back first.
    """

    def __init__(self, settings: AcquisitionSettings) -> None:
        self._move_on: Any = None
        super().__init__(
            settings,
            lambda: self.session.imaging.command(),
            answered=lambda _: self.session.imaged(self.session.imaging),
            tries=1,
            on_exit=self._stay,  # after a time-out the stage must not be sent on
        )

    def send(self) -> None:
        """Publish the command, and have the stage move on when it is exposed."""
        self._stay()
        self.session.imaging.expose()
        super().send()
        camera = self.context.latest("camera.status")
        # Read-out needs no still stage; no message reports the end of an exposure.
        exposure_s = 0.0 if camera is None else camera.exposure / 1e6  # from us
        self._move_on = self.after(exposure_s, self._to_following)

    def _to_following(self) -> None:
        following = self.session.imaging.following
        if following is not None and not self.session.pause_wanted:
            target = target_of(following)
            self.client.send("stage.motion.command", **target)
            self.session.sent_to_nm = (target["x"], target["y"])

    def _stay(self) -> None:
        if self._move_on is not None:
            self._move_on.cancel()


class Montage(Machine):
    """Images all tiles of one acquisition.

    Parameters
    ----------
    region
        Gives the fields of the `roi.create` that is imaged.
    lens
        Whether it is a lens montage.
    """

    def __init__(
        self,
        settings: AcquisitionSettings,
        region: Callable[[], RoiFields],
        *,
        lens: bool = False,
    ) -> None:
        self._region = region
        self._lens = lens
        self._tries = settings.request_tries
        self._tries_left = self._tries
        self._entered_s = 0.0
        super().__init__(
            states=self._states(settings), transitions=_TRANSITIONS, initial="Begin"
        )

    def _states(self, settings: AcquisitionSettings) -> list[Any]:
        return [
            {"name": "Begin", "on_enter": self._begin},
            {
                "name": "MoveStage",
                "on_enter": self._moves,
                "children": MoveToTile(settings),
                "remap": {"Success": "CaptureTile"},
            },
            {
                "name": "CaptureTile",
                "on_enter": self._captures,
                "children": CaptureTile(settings),
                # in this order: the first whose condition holds is taken
                "remap": [
                    {
                        "orig": "Success",
                        "dest": "Paused",
                        "conditions": "wants_pause",
                        "before": "next_tile",
                    },
                    {
                        "orig": "Success",
                        "dest": "MoveStage",
                        "conditions": "has_more",
                        "before": "next_tile",
                    },
                    {"orig": "Success", "dest": "Complete"},
                    {
                        "orig": "Failure",
                        "dest": "MoveStage",
                        "conditions": "may_try_again",
                        "before": "count_try",
                    },
                    {"orig": "Failure", "dest": "Failure"},
                ],
            },
            {"name": "Paused", "on_enter": lambda: self.session.paused()},
            {"name": "Complete", "on_enter": self._complete},
            "Success",
            "Failure",
        ]

    def has_more(self) -> bool:
        """Whether a tile is still to be imaged."""
        return self.session.imaging.stop is not None

    def wants_pause(self) -> bool:
        """Whether the operator wants a pause, and something is left to image."""
        return self.has_more() and bool(self.session.pause_wanted)

    def may_try_again(self) -> bool:
        """Whether the tile may be exposed once more."""
        return self._tries_left > 1

    def count_try(self) -> None:
        """Note that the tile is exposed once more."""
        self._tries_left -= 1
        tile_id = self.session.imaging.command()["tile_id"]
        sentence = "coordinator: the camera did not deliver %s, it is exposed once more"
        self._logger.warning(sentence, tile_id)

    def next_tile(self) -> None:
        """Begin to count time and tries for the next tile."""
        self._tries_left = self._tries

    def _begin(self) -> None:
        self._tries_left = self._tries
        # sent before a rest or another region, it says nothing of the stage now
        self.session.sent_to_nm = None
        self._try(
            lambda: self.session.begin(self._region(), lens=self._lens), self.begun
        )

    def _moves(self) -> None:
        self._entered_s = time.monotonic()

    def _captures(self) -> None:
        self.session.imaging.clock(moved_s=time.monotonic() - self._entered_s)

    def _complete(self) -> None:
        self._try(lambda: self.session.completed(self.session.imaging), self.completed)

    def _try(self, act: Callable[[], Any], then: Callable[[], Any]) -> None:
        try:
            act()
        except PlatformError as error:
            self.context.problem = str(error)
            self.fail()
        else:
            then()

    @on_message("stage.aperture.status")
    def _on_aperture(self, status: Any) -> None:
        """A stage that was started again has lost its aperture: change to it."""
        if self.get_machine_state() not in ("MoveStage", "CaptureTile"):
            return
        wanted = self.session.imaging.begun.roi.get("aperture_id")
        if wanted is not None and status.current_aperture != wanted:
            self.lost()


def target_of(stop: Stop) -> dict[str, int]:
    """Fields of the `stage.motion.command` to a stop."""
    return {"x": stop.x_nm, "y": stop.y_nm}
