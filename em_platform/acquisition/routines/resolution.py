"""CalibrateResolution: how large a pixel is, and how the camera stands to the stage."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.routines.steps import (
    Calibration,
    Camera,
    Column,
    Frame,
    Image,
    Move,
    Outcome,
    eight_bit,
)
from em_platform.config import AcquisitionSettings
from em_platform.errors import DeviceError
from em_platform.imaging.register import (
    FAR_PX,
    GRID_PX,
    coarse_shift,
    patch_shifts,
    pick_corners,
    texture_map,
)

_LEAST_Z = 8.0  # of the correlation's peak over its noise
_LEAST_PATCHES = 4
_MOST_OFF = 1.5  # times larger or smaller than the nominal shift
_PATCHES = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """Of one magnification."""

    nm_per_px: tuple[float, float]
    """Along the image's x and y."""
    rotation_rad: float
    """As acquisition.raster and `montage.complete` have it."""


def calibrate_resolution(settings: AcquisitionSettings) -> Calibration:
    """Move the stage along x and y by known ways and measure what the image does.

    Raises
    ------
    DeviceError
        The shift is not seen: no structure, or the stage does not move.
    """
    status = yield Column()
    camera = yield Camera()
    share = settings.coordinator.routines.resolution_step
    nominal_nm = settings.pixel_nm * settings.magnification / int(status.mag)
    step_nm = round(share * min(camera.width, camera.height) * nominal_nm)
    start = yield Move()
    first: Image = yield Frame()
    ways, shifts = [], []
    for way_x, way_y in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        there = yield Move(
            x_nm=start.x + way_x * step_nm, y_nm=start.y + way_y * step_nm
        )
        shifts.append(image_shift(first, (yield Frame())))
        _check_shift(shifts[-1], share * min(camera.width, camera.height))
        ways.append((there.x - start.x, there.y - start.y))
    yield Move(x_nm=start.x, y_nm=start.y)
    found = resolution_of(np.array(ways, float), np.array(shifts, float))
    kind = "mag" if status.mag_mode == "MAG" else "lowmag"
    fields: dict[str, object] = {"mag": {}, "lowmag": {}}
    fields[kind] = {
        int(status.mag): {
            "nm_per_px": found.nm_per_px,
            "rotation": found.rotation_rad,
        }
    }
    x, y = found.nm_per_px
    return Outcome(
        sentence=f"resolution at {status.mag}: {x:.4f} by {y:.4f} nm a pixel, "
        f"{math.degrees(found.rotation_rad):.2f} degrees",
        messages={"calibration.resolution": fields},
    )


def image_shift(first: Image, second: Image) -> tuple[float, float]:
    """How far (y, x) the camera looks beyond `first` in `second`, in pixels.

    Raises
    ------
    DeviceError
        The two frames do not show the same.
    """
    a, b = eight_bit(first), eight_bit(second)
    reach = 0.45 * min(a.shape)
    peak = coarse_shift(a, b, expected=(0.0, 0.0), search_px=reach)
    if peak.z < _LEAST_Z:
        raise DeviceError(
            f"resolution: the image before and after a move of the stage have nothing "
            f"in common (z {peak.z:.1f}, at least {_LEAST_Z:g} expected); go to where "
            "there is structure, and focus"
        )
    size = (max(32, a.shape[0] // 8), max(32, a.shape[1] // 8))
    texture = _shared_texture(b, shift=(peak.dy_px, peak.dx_px))
    found = patch_shifts(
        a,
        b,
        corners=pick_corners(texture, size=size, count=_PATCHES),
        size=size,
        shift=(peak.dy_px, peak.dx_px),
        min_score=0.5,
    )
    good = found.scores >= 0.5
    if good.sum() < _LEAST_PATCHES:
        return peak.dy_px, peak.dx_px
    y, x = np.median((found.a_points - found.b_points)[good], axis=0)
    return float(y), float(x)


def _check_shift(shift_px: tuple[float, float], nominal_px: float) -> None:
    """Refuse a shift that no pixel size near the nominal one explains.

    Where there is no structure the camera's own pattern is found, which stays in place.
    """
    found_px = math.hypot(*shift_px)
    if not nominal_px / _MOST_OFF < found_px < nominal_px * _MOST_OFF:
        raise DeviceError(
            f"resolution: the image moved by {found_px:.1f} px, about "
            f"{nominal_px:.0f} px were expected; go to where there is structure, and "
            "see that the stage moves and acquisition.pixel_nm is about right"
        )


def _shared_texture(
    image: NDArray[np.uint8], *, shift: tuple[float, float]
) -> NDArray[np.float32]:
    """The texture map; negative where the frame that lies `shift` before sees nothing.

    At the seam of both frames a patch needs room to be sought.
    """
    texture = texture_map(image)
    for axis, off in enumerate(shift):
        length = image.shape[axis]
        at = (np.arange(texture.shape[axis]) + 0.5) * GRID_PX
        beyond = (at + off < FAR_PX) | (at + off > length - FAR_PX)
        beyond |= (at < FAR_PX) | (at > length - FAR_PX)
        if axis == 0:
            texture[beyond, :] = -1.0
        else:
            texture[:, beyond] = -1.0
    return texture


def resolution_of(
    ways_nm: NDArray[np.float64], shifts_px: NDArray[np.float64]
) -> Resolution:
    """Pixel size and rotation from stage ways (x, y) and image shifts (y, x).

    The image shift is a linear map of the way (least squares). Its inverse says how
    many nanometres of the stage a pixel along each of the image's axes is.
    """
    image_xy = shifts_px[:, ::-1]
    to_px = np.linalg.lstsq(ways_nm, image_xy, rcond=None)[0].T
    to_nm = np.linalg.inv(to_px)
    x_nm, y_nm = (float(np.hypot(*to_nm[:, k])) for k in (0, 1))
    # X = (x cos a + y sin a) / p, Y = (y cos a - x sin a) / p
    angle = math.atan2(to_px[0, 1] - to_px[1, 0], to_px[0, 0] + to_px[1, 1])
    return Resolution(nm_per_px=(x_nm, y_nm), rotation_rad=angle)
