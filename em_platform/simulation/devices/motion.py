"""How the simulated stage moves: straight, at even speed, then it settles."""

import math
from dataclasses import dataclass

from em_platform.config import SimulationSettings

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
    if motion.rests(now_s) and far_nm == 0.0:
        return motion
    return Motion(
        start_nm=(float(here[0]), float(here[1]), float(here[2])),
        target_nm=(there[0], there[1], there[2]),
        begun_s=now_s,
        travel_s=far_nm / (settings.stage_speed_um_s * 1000) * max(slow, 1.0),
        settle_s=settings.stage_settle_ms / 1000 if far_nm > CLOSE_NM else 0.0,
    )
