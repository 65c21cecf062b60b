"""Where each camera pixel looks at the specimen, and what it sees there."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.config import SimulationSettings
from em_platform.imaging.interpolate import MARGIN_PX, shifted, warped
from em_platform.imaging.lens import lens_field
from em_platform.model import LensModel, Size, TilePlacement
from em_platform.simulation.specimen import Labels, Specimen

TAPE_GREY = 10.0  # nearly black, well below routines.tape_threshold


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


_STRIP_PX = 256
_PITCH_PX = 4  # the displacement between its nodes is linear to 0.001 px


def place(
    tile_id: str, *, y_px: float, x_px: float, size: Size, rotation_rad: float = 0.0
) -> TilePlacement:
    """The placement of a tile whose corner is at `y_px, x_px` before it is turned.

    The tile turns about its middle; positive angles turn y towards x. World pixel =
    placement applied to the pixel without the lens's distortion.
    """
    cos, sin = math.cos(rotation_rad), math.sin(rotation_rad)
    # Pixels are points at whole numbers: the middle of n is at (n - 1) / 2.
    middle_y, middle_x = 0.5 * (size.height_px - 1), 0.5 * (size.width_px - 1)
    return TilePlacement(
        tile_id=tile_id,
        y_px=y_px + middle_y - (cos * middle_y - sin * middle_x),
        x_px=x_px + middle_x - (sin * middle_y + cos * middle_x),
        yy=cos,
        yx=-sin,
        xy=sin,
        xx=cos,
    )


def tilted(
    placement: TilePlacement, *, size: Size, angle_x: float, angle_y: float
) -> TilePlacement:
    """The placement of a frame whose specimen is tilted by so many radians.

    Tilt about the stage's x axis foreshortens the image along y, and about its y axis
    along x: a frame then shows 1/cos as much of the specimen, about the same middle.
    """
    if angle_x == angle_y == 0.0:
        return placement
    y_by, x_by = 1.0 / math.cos(angle_x), 1.0 / math.cos(angle_y)
    p = placement
    half_y, half_x = 0.5 * (size.height_px - 1), 0.5 * (size.width_px - 1)
    middle_y = p.y_px + p.yy * half_y + p.yx * half_x
    middle_x = p.x_px + p.xy * half_y + p.xx * half_x
    return p.model_copy(
        update={
            "y_px": middle_y - y_by * (p.yy * half_y + p.yx * half_x),
            "x_px": middle_x - x_by * (p.xy * half_y + p.xx * half_x),
            "yy": y_by * p.yy,
            "yx": y_by * p.yx,
            "xy": x_by * p.xy,
            "xx": x_by * p.xx,
        }
    )


def radial_lens(size: Size, *, edge_px: float) -> LensModel:
    """A lens of third and fifth order that moves what is at mid-edge by `edge_px`.

    In a corner it moves by 2.77 times as much: 2.6 px gives 7.2 px there.
    """
    # at mid-edge the radius is 1, in a corner the square root of 2
    # The lens of the benchmarks' montage B (benchmarks/montage_data.py).
    corner_px = edge_px * 7.2 / 2.6
    fifth = (corner_px - edge_px * 2**1.5) / (2**2.5 - 2**1.5)
    third = edge_px - fifth
    dy, dx = [0.0] * 21, [0.0] * 21
    for power_u, power_v, value in (
        # r**2 = u**2 + v**2 and r**4 = u**4 + 2 u**2 v**2 + v**4, times u or v.
        (2, 0, third), (0, 2, third),
        (4, 0, fifth), (2, 2, 2 * fifth), (0, 4, fifth),
    ):  # fmt: skip
        dy[_term(power_u + 1, power_v)] += value
        dx[_term(power_u, power_v + 1)] += value
    return LensModel(
        microscope="sim",
        magnification=2000,
        size=size,
        degree=5,
        dy_px=tuple(dy),
        dx_px=tuple(dx),
        residual_mean_px=0.0,
        residual_std_px=0.0,
        points=0,
    )


def _term(power_u: int, power_v: int) -> int:
    """The place of u**power_u * v**power_v among a lens model's coefficients."""
    total = power_u + power_v
    return total * (total + 1) // 2 + power_v


def view(
    specimen: Specimen,
    placement: TilePlacement,
    *,
    size: Size,
    section: int = 0,
    lens: LensModel | None = None,
) -> NDArray[np.float32]:
    """The light that a camera so placed receives, `(h, w)` in grey levels 0..255.

    Camera pixel p looks at world pixel `placement(p + field(p))`, `field` being the
    lens's displacement; without lens, rotation and tilt that is a plain sub-pixel
    shift.
    """
    straight = (placement.yy, placement.yx, placement.xx) == (1.0, 0.0, 1.0)
    # a shift alone is separable: much cheaper than a warp
    if lens is None and straight:
        return _shifted_view(specimen, placement, size=size, section=section)
    grid = _grid(placement, size=size, lens=lens)
    # the interpolation looks beyond the frame by so much
    low = np.floor(grid.min(axis=(0, 1))).astype(int) - MARGIN_PX
    high = np.ceil(grid.max(axis=(0, 1))).astype(int) + MARGIN_PX
    window = specimen.window(
        int(low[0]),
        int(low[1]),
        height=int(high[0] - low[0]),
        width=int(high[1] - low[1]),
        section=section,
    )
    return warped(
        window,
        grid - low,
        pitch_px=_PITCH_PX,
        height=size.height_px,
        width=size.width_px,
    )


def _shifted_view(
    specimen: Specimen, placement: TilePlacement, *, size: Size, section: int
) -> NDArray[np.float32]:
    y, x = math.floor(placement.y_px), math.floor(placement.x_px)
    window = specimen.window(
        y - MARGIN_PX,
        x - MARGIN_PX,
        height=size.height_px + 2 * MARGIN_PX,
        width=size.width_px + 2 * MARGIN_PX,
        section=section,
    )
    return shifted(window, dy=placement.y_px - y, dx=placement.x_px - x)


def label_view(
    specimen: Specimen,
    placement: TilePlacement,
    *,
    size: Size,
    section: int = 0,
    lens: LensModel | None = None,
) -> Labels | None:
    """Cell and class of what each camera pixel looks at, that of the nearest one.

    None where the specimen does not know them.
    """
    cells = np.empty((size.height_px, size.width_px), np.uint32)
    classes = np.empty((size.height_px, size.width_px), np.uint8)
    xs = np.arange(size.width_px, dtype=np.float64)
    # strips, so that a large camera's places fit into the memory
    for top in range(0, size.height_px, _STRIP_PX):
        rows = slice(top, min(top + _STRIP_PX, size.height_px))
        ys = np.arange(rows.start, rows.stop, dtype=np.float64)
        world = np.rint(_world(placement, ys, xs, lens)).astype(np.int64)
        low, high = world.min(axis=(0, 1)), world.max(axis=(0, 1))
        found = specimen.labels(
            int(low[0]),
            int(low[1]),
            height=int(high[0] - low[0]) + 1,
            width=int(high[1] - low[1]) + 1,
            section=section,
        )
        if found is None:
            return None
        y, x = world[..., 0] - low[0], world[..., 1] - low[1]
        cells[rows], classes[rows] = found[0][y, x], found[1][y, x]
    return cells, classes


def _grid(
    placement: TilePlacement, *, size: Size, lens: LensModel | None
) -> NDArray[np.float64]:
    """`(rows, columns, 2)`: world (y, x) of each 4th pixel along both axes."""
    ys = np.arange(size.height_px // _PITCH_PX + 2) * float(_PITCH_PX)
    xs = np.arange(size.width_px // _PITCH_PX + 2) * float(_PITCH_PX)
    return _world(placement, ys, xs, lens)


def _world(
    placement: TilePlacement,
    ys: NDArray[np.floating[Any]],
    xs: NDArray[np.floating[Any]],
    lens: LensModel | None,
) -> NDArray[np.float64]:
    """`(len(ys), len(xs), 2)`: world (y, x) of these camera pixels."""
    y, x = np.meshgrid(ys, xs, indexing="ij")
    if lens is not None:
        dy, dx = lens_field(lens, y, x)
        y, x = y + dy, x + dx
    p = placement
    return np.stack(
        [p.y_px + p.yy * y + p.yx * x, p.x_px + p.xy * y + p.xx * x], axis=-1
    )
