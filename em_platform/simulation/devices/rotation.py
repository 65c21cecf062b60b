"""The simulated goniometer: tilts the specimen about two axes."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from em_platform.config import SimulationSettings
from em_platform.simulation.devices.commanded import DeviceBus

_MOVING_PERIOD_S = 0.02  # 50 Hz while it tilts
_IDLE_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt:
    """One tilt at even speed, both axes at a time; angles in radians."""

    start_rad: tuple[float, float] = (0.0, 0.0)
    target_rad: tuple[float, float] = (0.0, 0.0)
    begun_s: float = -math.inf
    lasts_s: float = 0.0

    def angles(self, now_s: float) -> tuple[float, float]:
        """Where both axes are."""
        if self.rests(now_s):
            return self.target_rad
        share = (now_s - self.begun_s) / self.lasts_s
        x, y = (
            a + (b - a) * share
            for a, b in zip(self.start_rad, self.target_rad, strict=True)
        )
        return x, y

    def rests(self, now_s: float) -> bool:
        """Whether it has arrived."""
        return now_s >= self.begun_s + self.lasts_s


def tilt(
    before: Tilt,
    target: tuple[float | None, float | None],
    *,
    now_s: float,
    settings: SimulationSettings,
) -> Tilt:
    """The tilt after a command; None keeps an axis where its last target is.

    Raises
    ------
    ValueError
        The target is beyond the goniometer's limit.
    """
    x, y = (
        old if new is None else new
        for old, new in zip(before.target_rad, target, strict=True)
    )
    for axis, angle in (("x", x), ("y", y)):
        if abs(math.degrees(angle)) > settings.tilt_limit_deg + 1e-9:
            raise ValueError(
                f"stage: angle_{axis} = {math.degrees(angle):.1f} degrees is beyond "
                f"the limit of {settings.tilt_limit_deg:g}; stay within it"
            )
    start = before.angles(now_s)
    far_deg = math.degrees(max(abs(x - start[0]), abs(y - start[1])))
    return Tilt(
        start_rad=start,
        target_rad=(x, y),
        begun_s=now_s,
        lasts_s=far_deg / settings.tilt_speed_deg_s,
    )


class Rotation:
    """Turns messages into tilts and publishes the angles."""

    def __init__(self, bus: DeviceBus, settings: SimulationSettings) -> None:
        self._bus, self._settings = bus, settings
        self._tilt = Tilt()
        self._height_nm = 0.0
        self._error = ""
        self._moved = False
        self._published_s = -math.inf
        bus.subscribe("stage.rotation.command", self._on_command)

    def tick(self) -> None:
        """Publish the angles: 50 times a second while it tilts, else once."""
        period_s = _MOVING_PERIOD_S if self._moved else _IDLE_PERIOD_S
        if time.monotonic() - self._published_s >= period_s - 0.005:
            self._publish_status()

    def _on_command(self, command: Any, _: Mapping[str, str]) -> None:
        wanted = (command.angle_x, command.angle_y)
        try:
            self._tilt = tilt(
                self._tilt,
                (0.0, 0.0) if command.calibrate else wanted,
                now_s=time.monotonic(),
                settings=self._settings,
            )
        except ValueError as error:
            self._error = str(error)
        else:
            self._error = ""
        if command.eucentric_height is not None:
            self._height_nm = command.eucentric_height
        self._publish_status()

    def _publish_status(self) -> None:
        now_s = self._published_s = time.monotonic()
        angle_x, angle_y = self._tilt.angles(now_s)
        self._moved = not self._tilt.rests(now_s)
        self._bus.publish(
            "stage.rotation.status",
            angle_x=angle_x,
            angle_y=angle_y,
            eucentric_height=self._height_nm,
            in_motion=self._moved,
            error=self._error,
        )
