"""A look at a tilt series at one geometry: how probable it is, and better shifts.

Where neighbours are correlated to begin with, and where the shifts are moved by Newton
steps to the greatest likelihood (see `tilt_likelihood`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.cryoem.methods import tilt_likelihood as likelihood
from em_platform.cryoem.methods.tilt_images import (
    Images,
    Numbers,
    aligned_shape,
    fade,
    reduced,
    stretched,
)
from em_platform.cryoem.methods.tilt_pose import Pose, turned

Load = Callable[[int], NDArray[np.floating]]

# Of an image's side.
_MOST_MOVE = 0.02
# Steps after which images lie so well that their signal is measured again.
_SETTLED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Images of one size `(n, h, w)`, and how large the matrices for them may be."""

    images: Images
    angles_deg: Numbers
    most_numbers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What one look at a series at one pose gives."""

    misfit: float
    pose: Pose
    at: likelihood.Frequencies
    coherent: Numbers
    model: likelihood.Model
    white: NDArray[np.complex64]


def level_of(load: Load, angles_deg: Numbers, factor: int, most_numbers: int) -> Level:
    """The images of a series, `factor` times smaller."""
    images = [reduced(load(i), factor) for i in range(len(angles_deg))]
    return Level(
        images=np.stack(images), angles_deg=angles_deg, most_numbers=most_numbers
    )


def chained(level: Level, axis_deg: float) -> Numbers:
    """Shifts `(n, 2)` from correlating neighbours, from the least tilt outwards."""
    n = len(level.images)
    flat = stretched(
        level.images,
        angles_deg=level.angles_deg,
        axis_deg=axis_deg,
        shifts_px=np.zeros((n, 2)),
    )
    height, width = flat.shape[1:]
    window = fade(height)[:, None] * fade(width)[None, :]
    found = scipy.fft.rfft2(flat * window)
    # Between plain and phase correlation: sharp peaks, and little weight on noise.
    found /= np.sqrt(np.abs(found)) + 1e-6
    ky, kx = scipy.fft.fftfreq(height)[:, None], scipy.fft.rfftfreq(width)[None, :]
    radius = np.hypot(kx, ky)
    found[:, (radius < 2 / height) | (radius > 0.25)] = 0
    moves = np.zeros((n, 2))
    middle = int(np.argmin(np.abs(level.angles_deg)))
    for way in (1, -1):
        for i in range(middle + way, n if way > 0 else -1, way):
            product = found[i] * found[i - way].conj()
            correlation = scipy.fft.irfft2(product, s=(height, width))
            y, x = np.unravel_index(np.argmax(correlation), correlation.shape)
            half_y, half_x = height // 2, width // 2
            moves[i, 0] = moves[i - way, 0] + (x + half_x) % width - half_x
            moves[i, 1] = moves[i - way, 1] + (y + half_y) % height - half_y
    return turned(moves, np.deg2rad(level.angles_deg), axis_deg)


def look_at(
    level: Level,
    pose: Pose,
    *,
    iterations: int,
    known: Numbers | None = None,
    model: likelihood.Model | None = None,
) -> State:
    """The misfit after some Newton steps of the shifts, and what it came from.

    With a `known` coherence the misfits of two poses compare. Without, it is measured,
    and again as the images come to lie well. A `model` holds for one set of angles and
    one thickness.
    """
    tilts = np.deg2rad(level.angles_deg + pose.offset_deg)
    at = likelihood.frequencies(
        aligned_shape(level.images.shape[1:], pose.axis_deg),
        tilts_rad=tilts,
        thickness_px=pose.thickness_px,
        most_numbers=level.most_numbers,
    )
    white = white_of(level, pose, at)
    coherent = likelihood.coherence(white, at) if known is None else known
    model = model or likelihood.model_of(coherent, at)
    for count in range(1, iterations + 1):
        fit = likelihood.fit_of(model, white, at)
        pose = _moved(pose, model, fit, tilts, max(at.shape))
        white = white_of(level, pose, at)
        if known is None and count == _SETTLED:
            coherent = likelihood.coherence(white, at)
            model = likelihood.model_of(coherent, at)
    return State(
        misfit=likelihood.fit_of(model, white, at).misfit,
        pose=pose,
        at=at,
        coherent=coherent,
        model=model,
        white=white,
    )


def white_of(
    level: Level,
    pose: Pose,
    at: likelihood.Frequencies,
    *,
    rows: Numbers | None = None,
) -> NDArray[np.complex64]:
    """Whitened transforms of the images at a pose, their rows weighed by `rows`."""
    flat = stretched(
        level.images,
        angles_deg=level.angles_deg + pose.offset_deg,
        axis_deg=pose.axis_deg,
        shifts_px=pose.shifts_px,
    )
    if rows is not None:
        flat *= rows.astype(np.float32)[:, None]
    return likelihood.whitened(flat, at)


def _moved(
    pose: Pose,
    model: likelihood.Model,
    fit: likelihood.Fit,
    tilts_rad: Numbers,
    side: int,
) -> Pose:
    across = likelihood.step_of(model.across, fit.across)
    along = likelihood.step_of(model.along, fit.along)
    moves = np.clip(np.stack([across, along], 1), -_MOST_MOVE * side, _MOST_MOVE * side)
    moves = turned(moves, tilts_rad, pose.axis_deg)
    return replace(pose, shifts_px=pose.shifts_px + moves)
