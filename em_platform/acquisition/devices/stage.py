"""The simulated stage: moves, settles, keeps its limits, changes apertures."""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from em_platform.config import Settings, SimulationSettings
from em_platform.messaging.bus import Bus

_MOVING_PERIOD_S = 0.02  # 50 Hz while moving
_IDLE_PERIOD_S = 1.0
_CLOSE_NM = 125  # nearer than this counts as there, as the JEOL service has it


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
) -> Motion:
    """The motion after a command; None keeps an axis where its last target is.

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
    if motion.rests(now_s) and far_nm == 0.0:
        return motion
    return Motion(
        start_nm=(float(here[0]), float(here[1]), float(here[2])),
        target_nm=(there[0], there[1], there[2]),
        begun_s=now_s,
        travel_s=far_nm / (settings.stage_speed_um_s * 1000),
        settle_s=settings.stage_settle_ms / 1000 if far_nm > _CLOSE_NM else 0.0,
    )


class Stage:
    """Turns messages into motions and says where it is; one section an aperture."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._settings = settings.acquisition.simulation
        self._lock = threading.Lock()
        self._motion = resting()
        self._moving = False
        self._error = ""
        self._aperture: int | None = None
        self._aperture_error = ""
        self._told_s = -math.inf
        self._timer: threading.Timer | None = None
        bus.subscribe("stage.motion.command", self._on_motion)
        bus.subscribe("stage.aperture.command", self._on_aperture)

    def tick(self) -> None:
        """Say where it is: 50 times a second while it moves, else once."""
        period_s = _MOVING_PERIOD_S if self._moving else _IDLE_PERIOD_S
        if time.monotonic() - self._told_s >= period_s - 0.005:
            if not self._moving:
                self._tell_aperture()
            self._tell()

    def close(self) -> None:
        """Stop the timer."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def _on_motion(self, command: Any, _: Mapping[str, str]) -> None:
        target = (0.0, 0.0, 0.0) if command.calibrate else None
        now_s = time.monotonic()
        try:
            motion = move(
                self._motion,
                target or (command.x, command.y, command.z),
                now_s=now_s,
                settings=self._settings,
            )
        except ValueError as error:
            self._error = str(error)
            self._tell()
            return
        with self._lock:
            self._motion, self._error = motion, ""
            if self._timer is not None:
                self._timer.cancel()
            if not motion.rests(now_s):
                # at once on stop, and not at the next tick
                self._timer = threading.Timer(motion.ends_s - now_s, self._tell)
                self._timer.daemon = True
                self._timer.start()
        self._tell()

    def _on_aperture(self, command: Any, _: Mapping[str, str]) -> None:
        wanted = command.aperture_id
        self._aperture_error = ""
        if wanted is not None and not 0 <= wanted < self._settings.apertures:
            self._aperture_error = (
                f"stage: there is no aperture {wanted}, only 0 to "
                f"{self._settings.apertures - 1}; choose one of these"
            )
        elif wanted is not None:
            self._aperture = wanted
        self._tell_aperture()

    def _tell(self) -> None:
        with self._lock:
            now_s = time.monotonic()
            x, y, z = self._motion.position(now_s)
            self._moving = not self._motion.rests(now_s)
            self._told_s = now_s
            self._bus.publish(
                "stage.motion.status",
                x=x,
                y=y,
                z=z,
                in_motion=self._moving,
                calibrated=True,
                error=self._error,
            )

    def _tell_aperture(self) -> None:
        self._bus.publish(
            "stage.aperture.status",
            current_aperture=self._aperture,
            calibrated=True,
            error=self._aperture_error,
        )


TICK_S = _MOVING_PERIOD_S
