"""The simulated stage: moves, settles, keeps its limits; carries the holder."""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from em_platform.config import Settings, SimulationSettings
from em_platform.messaging.bus import Bus
from em_platform.simulation.devices.commanded import DeviceBus, FaultFile
from em_platform.simulation.devices.holder import (
    MICROSCOPE,
    ApertureChanger,
    Rotation,
    Transfer,
)

CLOSE_NM = 125
"""Nearer than this counts as there, as the JEOL service has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """One straight move at even speed, then a time to settle; immutable."""

    start_nm: tuple[float, float, float]
    target_nm: tuple[float, float, float]
    begun_s: float
    travel_s: float
    settle_s: float

    def position(self, now_s: float) -> tuple[int, int, int]:
        """Where the stage is, (x, y, z) in nm."""
        share = 1.0
        if self.travel_s > 0:
            share = min(max((now_s - self.begun_s) / self.travel_s, 0.0), 1.0)
        x, y, z = (
            round(a + (b - a) * share)
            for a, b in zip(self.start_nm, self.target_nm, strict=True)
        )
        return x, y, z

    def rests(self, now_s: float) -> bool:
        """Whether it has arrived and settled."""
        return now_s >= self.ends_s

    @property
    def ends_s(self) -> float:
        """When it will have settled."""
        return self.begun_s + self.travel_s + self.settle_s


def resting(x_nm: float = 0.0, y_nm: float = 0.0, z_nm: float = 0.0) -> Motion:
    """A stage that stands still."""
    place = (x_nm, y_nm, z_nm)
    return Motion(
        start_nm=place, target_nm=place, begun_s=-math.inf, travel_s=0.0, settle_s=0.0
    )


def move(
    motion: Motion,
    target: tuple[float | None, float | None, float | None],
    *,
    now_s: float,
    settings: SimulationSettings,
    slow: float = 1.0,
) -> Motion:
    """The motion after a command; None keeps an axis where its last target is.

    A command that names the place where it is under way stops it there at once. `slow`
    is how many times slower than its speed it moves.

    Raises
    ------
    ValueError
        The target is beyond the stage's limits; the message says which axis.
    """
    here = motion.position(now_s)
    limit_nm = settings.stage_limit_um * 1000
    there = tuple(
        float(old if new is None else new)
        for old, new in zip(motion.target_nm, target, strict=True)
    )
    for axis, value in zip("xyz", there, strict=True):
        if abs(value) > limit_nm:
            raise ValueError(
                f"stage: {axis} = {value:.0f} nm is beyond the limit of "
                f"{limit_nm:.0f} nm; stay within it"
            )
    far_nm = math.dist(here, there)
    # a repeated command must not make a stage at rest settle again
    if motion.rests(now_s) and far_nm == 0.0:
        return motion
    return Motion(
        start_nm=(float(here[0]), float(here[1]), float(here[2])),
        target_nm=(there[0], there[1], there[2]),
        begun_s=now_s,
        travel_s=far_nm / (settings.stage_speed_um_s * 1000) * max(slow, 1.0),
        # nearer than the services can tell, nothing swings
        settle_s=settings.stage_settle_ms / 1000 if far_nm > CLOSE_NM else 0.0,
    )


_MOVING_PERIOD_S = 0.02  # 50 Hz while moving
_IDLE_PERIOD_S = 1.0  # at rest: late listeners learn the place

TICK_S = _MOVING_PERIOD_S

Target = tuple[float | None, float | None, float | None]


class Stage:
    """Moves on messages and publishes its position; one section an aperture."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._faults = FaultFile(settings.home)
        self._bus = DeviceBus(bus, "stage", self._faults)
        self._settings = settings.acquisition.simulation
        self._aperture = ApertureChanger(self._bus, self._settings)
        self._rotation = Rotation(self._bus, self._settings)
        self._transfer = Transfer(self._bus, self._settings)
        self._lock = threading.Lock()
        self._motion = resting()
        self._held: tuple[float, float, float] | None = None
        self._moving = False
        self._error = ""
        self._published_s = -math.inf
        self._timer: threading.Timer | None = None
        self._bus.subscribe("stage.motion.command", self._on_motion)

    def tick(self) -> None:
        """Publish its position: 50 times a second while it moves, else once."""
        self._apply_stuck()
        self._aperture.tick()
        self._rotation.tick()
        self._transfer.tick()
        period_s = _MOVING_PERIOD_S if self._moving else _IDLE_PERIOD_S
        # 5 ms less: a tick that comes a little early does not skip a period.
        if time.monotonic() - self._published_s >= period_s - 0.005:
            # the slow topic: one that follows a move need not come 50 times a second
            if not self._moving:
                x, y, z = self._motion.position(time.monotonic())
                self._bus.publish("stage.absolute", linear={"x": x, "y": y, "z": z})
            self._publish_status()

    def close(self) -> None:
        """Stop the timer."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def _on_motion(self, command: Any, _: Mapping[str, str]) -> None:
        self._apply_stuck()
        target: Target = (command.x, command.y, command.z)
        if command.calibrate:
            target = (0.0, 0.0, 0.0)
        if self._transfer.station != MICROSCOPE:
            self._error = (
                f"stage: the sample is at {self._transfer.station}; transfer it to "
                f"{MICROSCOPE} first"
            )
        else:
            self._go(target)
        self._publish_status()

    def _go(self, target: Target) -> None:
        now_s = time.monotonic()
        with self._lock:
            faults = self._faults.now()
            before = self._motion
            if self._held is not None:
                # stuck: the next target counts when it is free again
                before = resting(*self._held)
            try:
                motion = move(
                    before,
                    target,
                    now_s=now_s,
                    settings=self._settings,
                    slow=faults.value("stage_slow"),
                )
            except ValueError as error:
                self._error = str(error)
                return
            self._error = ""
            if self._held is not None:
                # Only its target: until it is free the stage stays where it is.
                self._held = motion.target_nm
                return
            self._motion = motion
            self._publish_at_end(now_s)

    def _apply_stuck(self) -> None:
        """Hold the stage where it is while it is stuck; let it go on afterwards."""
        stuck = bool(self._faults.now().value("stage_stuck"))
        if stuck == (self._held is not None):
            return
        now_s = time.monotonic()
        with self._lock:
            if stuck:
                self._held = self._motion.target_nm
                self._motion = resting(*self._motion.position(now_s))
                return
            held, self._held = self._held, None
            if held is not None:
                self._motion = move(
                    self._motion, held, now_s=now_s, settings=self._settings
                )
                self._publish_at_end(now_s)

    def _publish_at_end(self, now_s: float) -> None:
        """Publish at once when it has stopped, and not at the next tick."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._motion.rests(now_s):
            self._timer = threading.Timer(
                self._motion.ends_s - now_s, self._publish_status
            )
            # A move under way does not delay the end of the process.
            self._timer.daemon = True
            self._timer.start()

    def _publish_status(self) -> None:
        with self._lock:
            now_s = time.monotonic()
            x, y, z = here = self._motion.position(now_s)
            # stuck, it reports that it moves until it would have been there
            self._moving = (
                not self._motion.rests(now_s)
                if self._held is None
                else math.dist(self._held, here) > CLOSE_NM
            )
            self._published_s = now_s
            self._bus.publish(
                "stage.motion.status",
                x=x,
                y=y,
                z=z,
                in_motion=self._moving,
                calibrated=True,
                error=self._error,
            )
