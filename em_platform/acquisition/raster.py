"""From stage nanometres to image pixels and back, and the raster of a montage."""

import math
from dataclasses import dataclass

from pydantic import Field

from em_platform.model import Model, Size


class MontagePlan(Model):
    """One montage to image: a raster about the middle of one aperture."""

    montage_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)
    aperture_id: int = Field(ge=0)
    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    overlap: float = Field(ge=0, lt=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One tile of a raster: where the stage stands when it is imaged."""

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


def overlap_px(plan: MontagePlan, size: Size) -> int:
    """How many pixels two neighbours share along the shorter edge."""
    return round(plan.overlap * min(size.height_px, size.width_px))


def raster(
    plan: MontagePlan, size: Size, *, pixel_nm: float, rotation_rad: float = 0.0
) -> tuple[Stop, ...]:
    """The stops of a montage, row by row, every other row backwards."""
    shared = overlap_px(plan, size)
    step_y, step_x = size.height_px - shared, size.width_px - shared
    stops: list[Stop] = []
    for row in range(plan.rows):
        columns = range(plan.columns)
        for column in columns if row % 2 == 0 else reversed(columns):
            x_nm, y_nm = stage_position(
                (row - (plan.rows - 1) / 2) * step_y,
                (column - (plan.columns - 1) / 2) * step_x,
                pixel_nm=pixel_nm,
                rotation_rad=rotation_rad,
            )
            stops.append(
                Stop(index=len(stops), row=row, column=column, x_nm=x_nm, y_nm=y_nm)
            )
    return tuple(stops)
