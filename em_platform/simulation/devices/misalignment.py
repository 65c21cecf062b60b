"""By how much the simulated column is out of adjustment; no message reports it."""

import math
from dataclasses import dataclass

import numpy as np

from em_platform.config import SimulationSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Misalignment:
    """What calibration routines are to find out.

    `focus` is the sharp focus, `beam_offset` (x, y) centres the beam, `spread` is added
    to the brightness, `current` scales the light, `pixel` the pixel's size.
    """

    focus: int
    beam_offset: tuple[int, int]
    spread: int
    current: float
    pixel: float
    aperture_nm: tuple[int, int]
    """Stage (x, y) of the middle of each aperture."""


def misalignment_of(settings: SimulationSettings) -> Misalignment:
    """Drawn from the seed, as large as `misalignment` sets it; 0 is well adjusted."""
    share = settings.misalignment
    rng = np.random.default_rng([settings.seed, 0xA11])
    focus, x, y, spread, current, pixel, aperture_x, aperture_y = (
        float(each) * share for each in rng.uniform(-1.0, 1.0, 8)
    )
    return Misalignment(
        focus=round(400 * focus),
        beam_offset=(round(120 * x), round(120 * y)),
        spread=round(80 * spread),
        current=math.exp(0.5 * current),
        pixel=1.0 + 0.03 * pixel,
        aperture_nm=(round(100_000 * aperture_x), round(100_000 * aperture_y)),
    )
