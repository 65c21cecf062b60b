"""The simulated holder: tilts the specimen, changes apertures, transfers samples."""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from em_platform.config import SimulationSettings
from em_platform.simulation.devices.commanded import DeviceBus

_MOVING_PERIOD_S = 0.02  # 50 Hz while it tilts
_IDLE_PERIOD_S = 1.0  # as the stage has it: late listeners learn the angles


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt:
    """One tilt at even speed, both axes at a time; angles in radians."""

    start_rad: tuple[float, float] = (0.0, 0.0)
    target_rad: tuple[float, float] = (0.0, 0.0)
    begun_s: float = -math.inf  # it has always rested
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
        # 1e-9: an angle at the limit is rounded on its way to radians and back.
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
        # No lock between ticks and commands: a tilt is replaced whole.
        self._tilt = Tilt()
        self._height_nm = 0.0
        self._error = ""
        self._moved = False
        self._published_s = -math.inf
        bus.subscribe("stage.rotation.command", self._on_command)

    def tick(self) -> None:
        """Publish the angles: 50 times a second while it tilts, else once."""
        period_s = _MOVING_PERIOD_S if self._moved else _IDLE_PERIOD_S
        # 5 ms less: a tick that comes a little early does not skip a period.
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


CHANGING_PERIOD_S = 0.05
"""20 Hz while it changes; once a second else."""


class ApertureChanger:
    """Turns messages into changes of the aperture, which take their time."""

    def __init__(self, bus: DeviceBus, settings: SimulationSettings) -> None:
        self._bus, self._settings = bus, settings
        # Commands come in another thread than ticks, and a change is three fields.
        self._lock = threading.Lock()
        self._current: int | None = None
        self._target: int | None = None
        self._ends_s = -math.inf
        self._error = ""
        self._published_s = -math.inf
        bus.subscribe("stage.aperture.command", self._on_command)

    def tick(self) -> None:
        """End a change that is due; publish which aperture it holds."""
        with self._lock:
            changing = self._ends_s > -math.inf
            if changing and time.monotonic() >= self._ends_s:
                self._current, self._ends_s = self._target, -math.inf
                # Due at once: who waits for the aperture goes on.
                self._published_s = -math.inf
        period_s = CHANGING_PERIOD_S if changing else _IDLE_PERIOD_S
        if time.monotonic() - self._published_s >= period_s - 0.005:
            self._publish_status()

    def _on_command(self, command: Any, _: Mapping[str, str]) -> None:
        wanted, count = command.aperture_id, self._settings.apertures
        with self._lock:
            self._error = ""
            if wanted is not None and not 0 <= wanted < count:
                self._error = (
                    f"stage: there is no aperture {wanted}, only 0 to {count - 1}; "
                    "choose one of these"
                )
            elif wanted is not None or command.calibrate:
                self._change(self._current if wanted is None else wanted)
        self._publish_status()

    def _change(self, wanted: int | None) -> None:
        under_way = self._ends_s > -math.inf
        # a repeated command must not begin the change anew
        if wanted == (self._target if under_way else self._current):
            return
        self._target = wanted
        if self._settings.aperture_change_s == 0:
            self._current = wanted
            return
        # None while it changes: the camera exposes no frame of a montage then.
        self._current = None
        self._ends_s = time.monotonic() + self._settings.aperture_change_s

    def _publish_status(self) -> None:
        with self._lock:
            self._published_s = time.monotonic()
            self._bus.publish(
                "stage.aperture.status",
                current_aperture=self._current,
                calibrated=True,
                error=self._error,
            )


MICROSCOPE = "microscope"
STATIONS = (MICROSCOPE, "loadlock", "exchange")
"""In the order in which the sample passes them."""

_STEPS = 4  # of one stretch: open the valve, reach, carry, close the valve
_PERIOD_S = 1.0


class Transfer:
    """Turns messages into transfers, step by step."""

    def __init__(self, bus: DeviceBus, settings: SimulationSettings) -> None:
        self._bus, self._step_s = bus, settings.transfer_step_s
        self._station = MICROSCOPE
        self._target: str | None = None
        self._begun_s = 0.0
        self._published_step = 0
        self._error = ""
        self._published_s = -math.inf
        bus.subscribe("stage.transfer.command", self._on_command)

    @property
    def station(self) -> str:
        """Where the sample is; `in_transit` on its way."""
        return self._station if self._target is None else "in_transit"

    def tick(self) -> None:
        """Publish where the sample is: at each step, and once a second."""
        step = self._step()
        if self._target is not None and step > self._total():
            self._station, self._target = self._target, None
        due = time.monotonic() - self._published_s >= _PERIOD_S - 0.005
        if due or self._step() != self._published_step:
            self._publish_status()

    def _on_command(self, command: Any, _: Mapping[str, str]) -> None:
        wanted = command.station
        self._error = ""
        if wanted is not None and wanted not in STATIONS:
            self._error = (
                f"stage: there is no station {wanted}, only {', '.join(STATIONS)}; "
                "choose one of these"
            )
        # a sample between two stations cannot be turned round
        elif wanted is not None and self._target not in (None, wanted):
            self._error = (
                f"stage: the sample is on its way to {self._target}; wait until it is "
                "there"
            )
        elif wanted is not None and self._target is None and wanted != self._station:
            self._target, self._begun_s = wanted, time.monotonic()
        self._publish_status()

    def _total(self) -> int:
        if self._target is None:
            return 0
        here, there = STATIONS.index(self._station), STATIONS.index(self._target)
        # each station is passed, none is skipped
        return _STEPS * abs(there - here)

    def _step(self) -> int:
        """The step under way, from 1; 0 while nothing is carried."""
        if self._target is None:
            return 0
        past_s = time.monotonic() - self._begun_s
        # No time a step: it is there at the next tick.
        if self._step_s == 0:
            return self._total() + 1
        return int(past_s / self._step_s) + 1

    def _publish_status(self) -> None:
        self._published_s = time.monotonic()
        self._published_step = self._step()
        total = self._total()
        self._bus.publish(
            "stage.transfer.status",
            current_station=self.station,
            target_station=self._target,
            in_transit=self._target is not None,
            step=min(self._published_step, total),
            total_steps=total,
            error=self._error,
        )
