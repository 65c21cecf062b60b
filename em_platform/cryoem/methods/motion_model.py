"""A smooth field of local motion from the noisy tracks of patches.

Tracks are fitted by cubic B-splines in time times polynomials in space, as a Bayesian
linear model: how strong the motion is and how noisy the tracks are come from the data
(type II maximum likelihood; Bishop 2006, section 3.5), so that tracks of noise give no
motion instead of a wrong one.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

Reals = NDArray[np.float64]

_SPLINES = 6
_KNOT_POWER = 1.5
"""Knots lie closer together at the beginning, where the sample moves fastest."""
_DEGREE = 6
_HUBER = 1.5
_ROUNDS = 6
# Neighbouring correlation maps are averaged, so that their noise is not independent.
_CORRELATED = 2.0
# Of the standard deviation of a coefficient: higher orders are rarely as strong, and
# would run away beyond the outermost patches.
_ORDER_SCALE = (1.0, 1.0, 0.4, 0.16, 0.07, 0.03, 0.015)


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionField:
    """Local motion since the first frame, on top of the global one; pixels."""

    coefficients: Reals
    """`(2, splines, terms)`, y then x."""
    frames: int
    signal_px: float
    """Root mean square of the motion that was found."""
    error_px: float
    """How wrong it is by its own account."""
    residual_px: float
    """Of the tracks, robust."""

    def at(self, y: Reals, x: Reals) -> Reals:
        """Shifts at relative places, -0.5 to 0.5; `(t, n, 2)` as (y, x)."""
        time = time_basis(self.frames)
        space = space_basis(np.ravel(y), np.ravel(x))
        return np.asarray(np.einsum("tk,akm,nm->tna", time, self.coefficients, space))


def time_basis(frames: int) -> Reals:
    """Splines in time less their value in the first frame, `(t, k)`."""
    degree = min(3, frames - 1)
    count = min(_SPLINES, frames)
    inner = np.linspace(0, 1, count - degree + 1)[1:-1] ** _KNOT_POWER
    knots = np.r_[[0.0] * (degree + 1), inner, [1.0] * (degree + 1)]
    times = np.linspace(0, 1, frames)
    basis = BSpline.design_matrix(times, knots, degree).toarray()
    return np.asarray(basis - basis[0])


def space_basis(y: Reals, x: Reals) -> Reals:
    """Products of Legendre polynomials to the sixth order together, `(n, m)`."""
    legendre = np.polynomial.legendre.legvander
    along_y, along_x = legendre(2 * y, _DEGREE), legendre(2 * x, _DEGREE)
    return np.stack([along_y[:, j] * along_x[:, i] for j, i in _orders()], axis=1)


def _orders() -> list[tuple[int, int]]:
    each = range(_DEGREE + 1)
    return [(j, i) for j in each for i in each if i + j <= _DEGREE]


def fit_field(
    tracks: Reals, y: Reals, x: Reals, *, least_noise_px: float = 0.0
) -> MotionField:
    """The smooth field that explains the tracks of patches.

    Parameters
    ----------
    tracks
        `(n, t, 2)`, shift of each patch in each frame; each from an origin of its own.
    y, x
        `(n,)`, relative places of the patches, -0.5 to 0.5.
    least_noise_px
        Tracks are not believed to be better than this, however smooth they are.
    """
    patches, frames, _ = tracks.shape
    time, space = time_basis(frames), space_basis(y, x)
    # An origin for each patch: the mean over time is free.
    time_free = time - time.mean(0)
    design = np.einsum("tk,nm->ntkm", time_free, space).reshape(patches * frames, -1)
    scales = np.array([_ORDER_SCALE[j + i] for j, i in _orders()])
    prior = np.tile(scales, time.shape[1])
    design *= prior
    data = tracks - tracks.mean(1, keepdims=True)
    found, errors, residuals, shown = [], [], [], []
    for axis in range(2):
        target = data[:, :, axis].ravel()
        coefficients, error, residual = _fit_axis(
            design, target, least_noise_px / np.sqrt(2)
        )
        shown.append(design @ coefficients)
        found.append((coefficients * prior).reshape(time.shape[1], -1))
        errors.append(error)
        residuals.append(residual)
    return MotionField(
        coefficients=np.array(found),
        frames=frames,
        signal_px=float(np.sqrt(np.sum(np.square(shown), axis=0).mean())),
        error_px=math.hypot(*errors),
        residual_px=math.hypot(*residuals),
    )


def _fit_axis(
    design: Reals, target: Reals, least_noise: float
) -> tuple[Reals, float, float]:
    """Coefficients, error of the fitted values and robust noise."""
    weights = np.ones(len(target))
    coefficients = np.zeros(design.shape[1])
    least_noise = max(least_noise, 1e-6)
    noise = max(1.4826 * float(np.median(np.abs(target))), least_noise)
    error = 0.0
    for _ in range(_ROUNDS):
        rooted = np.sqrt(weights)[:, None]
        left, values, right = np.linalg.svd(design * rooted, full_matrices=False)
        seen = left.T @ (target * rooted[:, 0])
        strength = _strength(values, seen, noise)
        ratio = _CORRELATED * noise**2 / strength if strength else np.inf
        shrink = values / (values**2 + ratio)
        coefficients = right.T @ (shrink * seen)
        rest = target - design @ coefficients
        noise = max(1.4826 * float(np.median(np.abs(rest))), least_noise)
        # Beyond 1.5 sigma a track is believed less (Huber's weights).
        weights = 1 / np.maximum(1.0, np.abs(rest) / (_HUBER * noise))
        variance = values**2 * _CORRELATED * noise**2 / (values**2 + ratio)
        error = float(np.sqrt(variance.sum() / len(target)))
    return coefficients, error, noise


def _strength(values: Reals, seen: Reals, noise: float) -> float:
    """Variance of the coefficients that makes what was seen most likely; 0: none."""
    tried = np.r_[0.0, np.geomspace(1e-6, 1e4, 61)] * noise**2
    expected = tried[:, None] * values**2 + _CORRELATED * noise**2
    likelihood = -0.5 * (np.log(expected) + seen**2 / expected).sum(1)
    return float(tried[int(np.argmax(likelihood))])
