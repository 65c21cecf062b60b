"""The tape around an aperture: dark, with straight edges that LOWMAG shows."""

import math

import numpy as np
from numpy.typing import NDArray

from em_platform.config import SimulationSettings

TAPE_GREY = 10.0


def slot(
    height: int,
    width: int,
    *,
    stage_nm: tuple[float, float],
    pixel_nm: float,
    middle_nm: tuple[float, float],
    settings: SimulationSettings,
) -> NDArray[np.bool_]:
    """`(height, width)`: where a frame shows the aperture, and not the tape.

    Parameters
    ----------
    stage_nm, middle_nm
        Stage (x, y) of the frame's middle and of the aperture's.
    """
    angle = math.radians(settings.rotation_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    y = (np.arange(height, dtype=np.float32)[:, None] - 0.5 * height) * pixel_nm
    x = (np.arange(width, dtype=np.float32)[None, :] - 0.5 * width) * pixel_nm
    off_x = x * cos - y * sin + (stage_nm[0] - middle_nm[0])
    off_y = x * sin + y * cos + (stage_nm[1] - middle_nm[1])
    inside: NDArray[np.bool_] = np.abs(off_x) < settings.aperture_width_mm * 0.5e6
    inside &= np.abs(off_y) < settings.aperture_height_mm * 0.5e6
    return inside
