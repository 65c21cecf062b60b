"""From stage nanometres to image pixels and back, and the stops of a montage."""

import math
from dataclasses import dataclass

OFF_RASTER = 0.5
"""Of a tile between stage and raster: then pixel size or rotation are not right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One tile of a montage: where the stage stands when it is imaged."""

    index: int
    row: int
    column: int
    x_nm: int
    y_nm: int


def image_position(
    x_nm: float, y_nm: float, *, pixel_nm: float, rotation_rad: float = 0.0
) -> tuple[float, float]:
    """Pixel `(y, x)` of a stage position in the image's frame.

    As em_stitch turns them: X = x cos a + y sin a, Y = -x sin a + y cos a, where a is
    the `rotation_angle` of `montage.complete`.
    """
    cos, sin = math.cos(rotation_rad), math.sin(rotation_rad)
    return (y_nm * cos - x_nm * sin) / pixel_nm, (x_nm * cos + y_nm * sin) / pixel_nm


def stage_position(
    y_px: float, x_px: float, *, pixel_nm: float, rotation_rad: float = 0.0
) -> tuple[int, int]:
    """Stage `(x, y)` in whole nanometres of a pixel position; undoes the former."""
    cos, sin = math.cos(rotation_rad), math.sin(rotation_rad)
    x, y = x_px * pixel_nm, y_px * pixel_nm
    return round(x * cos - y * sin), round(x * sin + y * cos)
