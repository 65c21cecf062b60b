"""AutoExposure, and the dark and bright reference frames of the camera."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from em_platform.acquisition.routines.steps import (
    Calibration,
    Camera,
    Column,
    Frame,
    Image,
    Move,
    Outcome,
    grey,
)
from em_platform.config import AcquisitionSettings
from em_platform.errors import DeviceError

_TRIES = 8  # two are enough where the camera is linear
_MOST = 20.0  # the exposure changes by so much at once at most
_LONGEST_US = 5e6  # drift would blur a longer exposure: the beam is to be mended


def autoexposure(settings: AcquisitionSettings) -> Calibration:
    """Scale the exposure by what the mean lacks, until it is within the tolerance.

    Raises
    ------
    DeviceError
        There is no light, or the mean does not follow the exposure.
    """
    wanted = settings.coordinator.routines
    first = exposure_us = float((yield Camera()).exposure)
    for _ in range(_TRIES):
        frame = yield Frame()
        mean = float(grey(frame).mean())
        if abs(mean - wanted.mean_grey) <= wanted.mean_tolerance:
            return Outcome(
                sentence=f"autoexposure: {exposure_us / 1000:.3g} ms, mean {mean:.0f}"
            )
        exposure_us *= factor(frame, wanted_grey=wanted.mean_grey)
        exposure_us = round(min(exposure_us, _LONGEST_US), 1)
        yield Camera(fields={"exposure": exposure_us})
    yield Camera(fields={"exposure": first})
    raise DeviceError(
        f"autoexposure: the mean is {mean:.1f} of 255 at {exposure_us / 1000:.3g} ms, "
        f"{wanted.mean_grey:g} was wanted; see that the beam is on and the screen up"
    )


def factor(frame: Image, *, wanted_grey: float) -> float:
    """By how much longer to expose so that the frame's mean becomes `wanted_grey`."""
    levels = grey(frame)
    if float(np.mean(levels >= 254.0)) > 0.2:  # of all pixels
        return 0.3  # what is clipped does not show how bright it is
    mean = float(levels.mean())
    return float(np.clip(wanted_grey / max(mean, 0.1), 1.0 / _MOST, _MOST))


_DEGREE = 3  # enough for vignetting that is off the middle
_CELLS = 32  # means to fit it to: many more than its ten coefficients
_DETAIL_PX = 8.0  # dust and single pixels are smaller, blurred specimen is larger
_DARK_GREY = 0.1  # a dark frame's mean must stay below so much of the full range
_LIGHT_GREY = 0.08  # and a bright one's above


def darkfield(settings: AcquisitionSettings) -> Calibration:
    """Screen down, expose, average, screen up.

    Raises
    ------
    DeviceError
        There is light although the screen is down.
    """
    yield Column(fields={"screen": "down"})
    frames: list[Image] = []
    for _ in range(settings.coordinator.routines.reference_frames):
        frame = yield Frame(flags={"darkfield": True})
        frames.append(frame)
    yield Column(fields={"screen": "up"})
    dark = mean_of(frames)
    share = float(dark.mean()) / _full(frames[0])
    if share > _DARK_GREY:
        raise DeviceError(
            f"darkfield: the mean is {share:.0%} of the camera's range, less than "
            f"{_DARK_GREY:.0%} was expected; see that the screen goes down"
        )
    return Outcome(
        sentence=f"darkfield: mean {dark.mean():.2f} of {len(frames)} frames",
        references={"dark": dark},
    )


def brightfield(settings: AcquisitionSettings) -> Calibration:
    """Move the stage and expose, out of focus, so that only the camera's gain is left.

    The specimen stays on the stage: a blur of many pixels takes its detail away, the
    mean over places its rest. What is still seen of it, larger than the camera's own
    detail and smaller than its shade, is taken out by `gain_of`.

    Raises
    ------
    DeviceError
        There is too little light.
    """
    wanted = settings.coordinator.routines
    start = yield Move()
    column = yield Column()
    focus, width_px = column.focus, (yield Camera()).width
    # the settings' pixel is that of their own magnification
    pixel_nm = settings.pixel_nm * settings.magnification / int(column.mag)
    step_nm = wanted.bright_step * width_px * pixel_nm
    yield Column(fields={"focus": focus + wanted.bright_defocus})
    frames: list[Image] = []
    for x, y in _places(wanted.reference_frames):
        yield Move(x_nm=start.x + round(x * step_nm), y_nm=start.y + round(y * step_nm))
        frame = yield Frame(flags={"brightfield": True})
        frames.append(frame)
    yield Move(x_nm=start.x, y_nm=start.y)
    yield Column(fields={"focus": focus})
    share = float(np.mean(frames)) / _full(frames[0])
    if share < _LIGHT_GREY:
        raise DeviceError(
            f"brightfield: the mean is {share:.0%} of the camera's range, at least "
            f"{_LIGHT_GREY:.0%} was expected; expose longer, or see to the beam"
        )
    return Outcome(
        sentence=f"brightfield: mean {np.mean(frames):.1f} of {len(frames)} places",
        references={"bright": gain_of(frames)},
    )


def mean_of(frames: Sequence[Image]) -> NDArray[np.float32]:
    """`(h, w)` mean of frames."""
    total = np.zeros(frames[0].shape, np.float64)
    for frame in frames:
        total += frame
    return (total / len(frames)).astype(np.float32)


def gain_of(frames: Sequence[Image]) -> NDArray[np.float32]:
    """`(h, w)` level of even light, from frames of different places of a specimen.

    The mean over the frames without the darkest and the brightest of each pixel, of
    which shade (a polynomial of degree 3) and detail (grains of dust and single pixels,
    below 16 px) are kept; what lies between can only be specimen.
    """
    means = np.array([frame.mean() for frame in frames])
    level = float(means.mean())
    # each place lets through another share of the light
    scaled = np.stack(
        [
            frame * np.float32(level / mean)
            for frame, mean in zip(frames, means, strict=True)
        ]
    )
    total = scaled.sum(axis=0)
    if len(frames) > 4:  # of fewer too little would be left
        total -= scaled.min(axis=0) + scaled.max(axis=0)
    mean = (total / (len(frames) - 2 * (len(frames) > 4))).astype(np.float32)
    smooth = cv2.GaussianBlur(mean, (0, 0), _DETAIL_PX)
    detail = mean / np.maximum(smooth, 1e-3)
    return np.asarray(_shade(mean) * detail, np.float32)


def _shade(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The polynomial of degree 3 through the means of 32 x 32 cells."""
    height, width = image.shape
    cells = cv2.resize(image, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    places = (np.arange(_CELLS) + 0.5) / _CELLS * 2.0 - 1.0
    terms = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    # Legendre's: over a frame less dependent on each other than plain powers
    along = legendre.legvander(places, _DEGREE)
    basis = np.stack([np.outer(along[:, i], along[:, j]).ravel() for i, j in terms], 1)
    coefficients = np.linalg.lstsq(basis, cells.ravel(), rcond=None)[0]
    table = np.zeros((_DEGREE + 1, _DEGREE + 1))
    for (i, j), value in zip(terms, coefficients, strict=True):
        table[i, j] = value
    y = (np.arange(height) + 0.5) / height * 2.0 - 1.0
    x = (np.arange(width) + 0.5) / width * 2.0 - 1.0
    return np.asarray(legendre.leggrid2d(y, x, table), np.float32)


def _places(count: int) -> list[tuple[float, float]]:
    """`count` places on a square grid about the middle, in steps."""
    side = math.ceil(math.sqrt(count))
    middle = (side - 1) / 2
    return [(n % side - middle, n // side - middle) for n in range(count)]


def _full(frame: Image) -> float:
    return float(np.iinfo(frame.dtype).max)
