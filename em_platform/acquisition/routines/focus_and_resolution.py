"""AutoFocus and CalibrateResolution: a sharp image, and how it lies on the stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
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
    grey,
)
from em_platform.config import AcquisitionSettings
from em_platform.errors import DeviceError
from em_platform.imaging.focus import focus_score
from em_platform.imaging.register import (
    FAR_PX,
    GRID_PX,
    coarse_shift,
    patch_shifts,
    pick_corners,
    texture_map,
)

_WINDOWS = 3  # so often the search goes on where the best place was at its end
_LEAST_SCORE = 0.02  # a sharp image scores 0.1 to 0.5
_LEAST_RISE = 1.2  # of the sharpest over the middling: noise alone is alike everywhere
_FINE = (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)
"""Places of the fine search, in coarse steps about the best."""


def autofocus(settings: AcquisitionSettings) -> Calibration:
    """Coarse steps over the range, then the top of a parabola through fine ones.

    Raises
    ------
    DeviceError
        Nowhere is there a sharp image.
    """
    wanted = settings.coordinator.routines
    start = (yield Column()).focus
    powers: dict[int, float] = {}
    middle = start
    for _ in range(_WINDOWS):
        reach = range(-wanted.focus_range, wanted.focus_range + 1, wanted.focus_step)
        for place in (middle + step for step in reach):
            # windows overlap, and each frame costs time
            if place not in powers:
                yield Column(fields={"focus": place})
                powers[place] = fine_power((yield Frame()))
        best = max(powers, key=powers.__getitem__)
        if min(powers) < best < max(powers):
            break
        middle = best
    # most places are far out of focus: there only noise is left
    ground = float(np.median(list(powers.values())))
    for place in (best + round(share * wanted.focus_step) for share in _FINE):
        yield Column(fields={"focus": place})
        powers[place] = fine_power((yield Frame()))
    found = sharpest(
        [place for place in powers if abs(place - best) <= wanted.focus_step],
        [
            power - ground
            for place, power in powers.items()
            if abs(place - best) <= wanted.focus_step
        ],
    )
    yield Column(fields={"focus": found})
    score = focus_score(eight_bit((yield Frame())))
    if max(powers.values()) < _LEAST_RISE * ground or score < _LEAST_SCORE:
        yield Column(fields={"focus": start})
        raise DeviceError(
            f"autofocus: no sharp image from focus {min(powers)} to {max(powers)} "
            f"(score {score:.3f} at {found}); bring specimen under the beam, or focus "
            "by hand"
        )
    return Outcome(sentence=f"autofocus: {found}, score {score:.3f}, was {start}")


def fine_power(frame: Image) -> float:
    """Variance of what is 4 to 10 px wide: greatest where the image is sharp.

    `imaging.focus.focus_score` is a share of the power, so that images of different
    places can be compared. Far out of focus both parts of it vanish in the noise and
    the share is chance; of one place the power itself is the better guide.
    """
    levels = grey(frame)
    fine, coarse = (cv2.GaussianBlur(levels, (0, 0), px) for px in (1.2, 2.4))
    return float(np.subtract(fine, coarse).var())


def sharpest(places: Sequence[int], scores: Sequence[float]) -> int:
    """The top of the parabola through the logarithms of the powers.

    Defocus blurs like a Gaussian, whose logarithm is a parabola. Powers below a quarter
    of the best are noise and tails, and do not count.
    """
    at, score = np.array(places, float), np.array(scores, float)
    near = score > 0.25 * score.max()
    if near.sum() < 3:
        return places[int(np.argmax(score))]
    middle = at[near].mean()
    # about their middle: far from 0 the fit would lose digits
    bend, slope, _ = np.polyfit(at[near] - middle, np.log(score[near]), 2)
    # no top: the powers rise to one end
    if bend >= 0.0:
        return places[int(np.argmax(score))]
    top = middle - slope / (2.0 * bend)
    return round(float(np.clip(top, at.min(), at.max())))


# Noise reaches 5, see MatchSettings.min_peak_z.
_LEAST_Z = 8.0  # of the correlation's peak over its noise
_LEAST_PATCHES = 4  # the median of fewer is no better than the whole frame's peak
_MOST_OFF = 1.5  # times larger or smaller than the nominal shift
_PATCHES = 25  # 5 by 5 when spread; more cost time and the median stays


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
        # where it truly rests, which may be CLOSE_NM from where it was sent
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
    reach = 0.45 * min(a.shape)  # farther the two share less than half a frame
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
