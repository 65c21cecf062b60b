"""What a camera makes of the electrons that reach it: counts with noise and blur."""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.optics import frequencies


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A camera; the transfer function is a/(1 + alpha x^2) + b/(1 + beta x^2) + c.

    x is in cycles a pixel, and the function is scaled to 1 at x = 0 (Rullgård et al.
    2011, equation 21).
    """

    gain: float = 1.0
    dqe: float = 1.0
    """At frequency zero: the share of the signal-to-noise ratio that is kept."""
    mtf_a: float = 0.0
    mtf_b: float = 0.0
    mtf_c: float = 1.0
    mtf_alpha: float = 0.0
    mtf_beta: float = 0.0


def transfer(shape: tuple[int, int], detector: Detector) -> NDArray[np.float32]:
    """The modulation transfer function on the frequencies of `rfft2`, 1 at zero."""
    qy, qx = frequencies(shape, 1.0)
    square = qy**2 + qx**2
    whole = detector.mtf_a + detector.mtf_b + detector.mtf_c
    shape_at = (
        detector.mtf_a / (1 + detector.mtf_alpha * square)
        + detector.mtf_b / (1 + detector.mtf_beta * square)
        + detector.mtf_c
    )
    return (shape_at / whole).astype(np.float32)


def counted(
    electrons: NDArray[np.float32], *, detector: Detector, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Electrons as they arrive and are counted: shot noise, and the camera's own.

    A camera of quantum efficiency DQE adds a spread of (1/DQE - 1) a counted electron;
    an inverse Gaussian keeps the counts positive (Rullgård et al. 2011).
    """
    arrived = rng.poisson(np.maximum(electrons, 0)).astype(np.float32)
    if detector.dqe >= 1:
        return arrived
    normal = rng.standard_normal(arrived.shape, dtype=np.float32)
    uniform = rng.random(arrived.shape, dtype=np.float32)
    _spread(arrived, normal, uniform, np.float32(1 / detector.dqe - 1))
    return arrived


def recorded(
    electrons: NDArray[np.float32],
    *,
    detector: Detector,
    transfer_at: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Electrons a pixel as grey levels of the camera: blurred, scaled by its gain."""
    if detector.mtf_a == detector.mtf_b == 0:
        return electrons * np.float32(detector.gain)
    blurred = scipy.fft.irfft2(
        scipy.fft.rfft2(electrons) * transfer_at, s=electrons.shape
    )
    return np.asarray(blurred, np.float32) * np.float32(detector.gain)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _spread(counts, normal, uniform, extra):  # type: ignore[no-untyped-def]
    """Counts n, in place, as inverse Gaussians of mean n and variance n * extra.

    Michael, Schucany & Haas, American Statistician 30, 88 (1976): one root of a
    quadratic in a squared normal number, or the other, by one uniform number. Its
    variance is mean^3 / scale, so the scale is n^2 / extra.
    """
    for row in range(counts.shape[0]):
        for column in range(counts.shape[1]):
            mean = counts[row, column]
            if mean <= 0:
                continue
            square = extra * normal[row, column] ** 2
            root = np.sqrt(square * (4 * mean + square))
            low = mean + (square - root) / 2
            if uniform[row, column] * (mean + low) <= mean:
                counts[row, column] = low
            else:
                counts[row, column] = mean * mean / low
