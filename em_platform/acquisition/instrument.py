"""The microscope as the session drives it: requests that are repeated until answered.

Every request may be sent twice without harm: a device that has already done it says so
again. So a lost message, a restarted device or a broker's outage costs only time.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from em_platform.acquisition.raster import Stop
from em_platform.config import AcquisitionSettings
from em_platform.errors import BrokerUnavailable, DeviceError, NoAnswer
from em_platform.messaging.bus import Bus
from em_platform.model import Size

log = logging.getLogger(__name__)

_CLOSE_NM = 125  # as near as the stage and the camera take for the same place
_S_PER_PX = 3e-6  # a frame may take so much longer per pixel

Accept = Callable[[Any], bool]


class Instrument:
    """Scope, stage and camera behind one bus."""

    def __init__(self, bus: Bus, settings: AcquisitionSettings) -> None:
        self._bus = bus
        self._settings = settings
        self._camera: Any = None
        self._moved: int | None = None
        for topic in (
            "camera.status",
            "camera.image",
            "stage.motion.status",
            "stage.aperture.status",
            "scope.status",
        ):
            bus.latest(topic)  # subscribes

    def answers(self, timeout_s: float) -> bool:
        """Whether a camera, a stage and a column say that they are there."""
        deadline = time.monotonic() + timeout_s
        for topic in ("camera.status", "stage.motion.status", "scope.status"):
            left_s = max(deadline - time.monotonic(), 0.01)
            try:
                self._bus.wait_for(topic, lambda _: True, left_s)
            except NoAnswer:
                return False
        return True

    @property
    def frame_size(self) -> Size:
        """Of the camera's frames, as it last said."""
        return Size(height_px=self._camera.height, width_px=self._camera.width)

    def prepare(self) -> None:
        """Raise the screen, set the magnification, ask the camera for its state."""
        magnification = self._settings.magnification
        mode = "LOWMAG" if magnification < 2000 else "MAG"
        self._ask(
            "scope.command",
            {"mag_mode": mode, "mag": magnification, "screen": "up"},
            "scope.status",
            lambda s: s.mag == magnification and s.screen == "up",
        )
        self._camera = self._ask(
            "camera.settings", {}, "camera.status", lambda _: True, fresh=True
        )

    def to_aperture(self, aperture_id: int) -> None:
        """Bring one aperture (section) under the beam."""
        status = self._ask(
            "stage.aperture.command",
            {"aperture_id": aperture_id},
            "stage.aperture.status",
            lambda s: s.current_aperture == aperture_id or bool(s.error),
            fresh=True,
        )
        if status.error:
            raise DeviceError(status.error)

    def start_move(self, stop: Stop) -> None:
        """Send the stage on its way and do not wait."""
        self._moved = self._bus.mark()
        self._publish("stage.motion.command", {"x": stop.x_nm, "y": stop.y_nm})

    def finish_move(self, stop: Stop, *, aperture_id: int) -> Any:
        """Wait until the stage rests at `stop`, where `start_move` sent it.

        A stage that was started again and has lost its aperture changes to it first.
        """
        holds = self._bus.latest("stage.aperture.status")
        if holds is None or holds.current_aperture != aperture_id:
            self.to_aperture(aperture_id)

        def arrived(status: Any) -> bool:
            return bool(status.error) or is_at(status, stop)

        status = self._ask(
            "stage.motion.command",
            {"x": stop.x_nm, "y": stop.y_nm},
            "stage.motion.status",
            arrived,
            sent_at=self._moved,
        )
        if status.error and not is_at(status, stop):
            raise DeviceError(status.error)
        return status

    def expose(self, fields: dict[str, Any], *, move_on: Stop | None) -> None:
        """Expose one frame and wait until it is saved.

        As soon as the exposure has ended the stage is sent to `move_on`; the camera
        then reads out and saves while the stage moves.

        Raises
        ------
        DeviceError
            The camera said nothing about the frame in time.
        """
        exposure_s = self._camera.exposure / 1e6
        size = self.frame_size
        timeout_s = self._settings.request_timeout_s + exposure_s
        timeout_s += size.height_px * size.width_px * _S_PER_PX
        mark = self._bus.mark()
        self._publish("camera.command", fields)
        time.sleep(exposure_s)
        if move_on is not None:
            self.start_move(move_on)
        try:
            self._bus.wait_for(
                "camera.image",
                lambda image: image.tile_id == fields["tile_id"],
                timeout_s,
                since=mark,
            )
        except NoAnswer as error:
            raise DeviceError(
                f"camera: no frame of {fields['tile_id']} within {timeout_s:.1f} s; "
                "see that camera and stage run"
            ) from error

    def publish(self, topic: str, fields: dict[str, Any]) -> None:
        """Send a message; while the broker is away wait for it."""
        self._publish(topic, fields)

    def _ask(
        self,
        topic: str,
        fields: dict[str, Any],
        answer: str,
        accept: Accept,
        *,
        fresh: bool = False,
        sent_at: int | None = None,
    ) -> Any:
        """Send until an acceptable status comes, `fresh`: one from after that.

        With `sent_at`, a mark, it was sent then, and is sent again only for want of an
        answer from after that.
        """
        timeout_s, tries = (
            self._settings.request_timeout_s,
            self._settings.request_tries,
        )
        for attempt in range(tries):
            mark = self._bus.mark() if fresh else sent_at
            if attempt or sent_at is None:
                self._publish(topic, fields)
            try:
                return self._bus.wait_for(answer, accept, timeout_s, since=mark)
            except NoAnswer:
                log.warning("%s %s: not answered, try %d", topic, fields, attempt + 1)
        raise DeviceError(
            f"session: {topic} {fields} was not answered by {answer} in {tries} tries "
            f"of {timeout_s:g} s, the last word was {self._bus.latest(answer)}; see "
            "that the device runs (em-platform device)",
            topic=topic,
        )

    def _publish(self, topic: str, fields: dict[str, Any]) -> None:
        deadline = time.monotonic() + self._settings.outage_s
        while True:
            try:
                self._bus.publish(topic, **fields)
            except BrokerUnavailable:
                if time.monotonic() >= deadline:
                    raise
                log.warning("the broker is away; %s waits", topic)
            else:
                return


def is_at(status: Any, stop: Stop) -> bool:
    """Whether a `stage.motion.status` says that the stage rests at `stop`."""
    if status.in_motion or status.x is None or status.y is None:
        return False
    off_nm = max(abs(status.x - stop.x_nm), abs(status.y - stop.y_nm))
    return bool(off_nm <= _CLOSE_NM)
