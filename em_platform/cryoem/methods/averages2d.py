"""Class averages: particles laid on each other, divided by their contrast transfer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from em_platform.cryoem.methods.classify2d import Classes

Float = NDArray[np.float32]

_SURE = 0.5
"""Correlation of the halves of a class where signal and noise are as strong."""
_LEAST_TRANSFER = 0.05
"""Mean square of the contrast transfer that is believed: near its zeros is noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """The image of a class, `(side, side)`, and its finest detail in Å, if any."""

    image: Float
    resolution_a: float | None
    particles: int


def electron_wave_a(voltage_kv: float) -> float:
    """The wavelength of electrons, Å (Reimer & Kohl 2008, equation 2.5)."""
    volts = 1000 * voltage_kv
    return float(12.2643 / np.sqrt(volts * (1 + 0.978466e-6 * volts)))


def transfer(
    side: int,
    *,
    pixel_a: float,
    defocus_a: NDArray[np.float64],
    phase_deg: float = 0.0,
    voltage_kv: float,
    spherical_mm: float,
    amplitude_contrast: float,
) -> Float:
    """Contrast transfer `(side, side // 2 + 1)` of bright particles, positive first.

    `defocus_a` is larger, smaller (Å) and the angle of the larger from x (deg);
    Rohou & Grigorieff, J. Struct. Biol. 192, 216 (2015), equations 1 to 3.
    """
    fy = np.fft.fftfreq(side, pixel_a)[:, None]
    fx = np.fft.rfftfreq(side, pixel_a)[None, :]
    square = fy**2 + fx**2
    u, v, angle = defocus_a
    direction = 2 * (np.arctan2(fy, fx) - np.deg2rad(angle))
    defocus = (u + v + (u - v) * np.cos(direction)) / 2
    wave = electron_wave_a(voltage_kv)
    chi = np.pi * wave * square * (defocus - wave**2 * square * spherical_mm * 5e6)
    chi += np.deg2rad(phase_deg) + np.arcsin(amplitude_contrast)
    return np.asarray(np.sin(chi), np.float32)


def laid_over(image: Float, *, angle_deg: float, shift: tuple[float, float]) -> Float:
    """A particle turned and moved back to where the average of its class lies."""
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    turn = np.array([[c, s], [-s, c]])
    middle = np.asarray(image.shape) // 2
    offset = middle + turn @ (np.asarray(shift) - middle)
    return np.asarray(
        affine_transform(image, turn, offset, order=3, mode="grid-constant"), np.float32
    )


def average(
    images: Float,
    found: Classes,
    members: NDArray[np.int64],
    *,
    transfers: list[Float] | None,
    pixel_a: float,
    scale: float,
) -> Average:
    """The average of one class.

    Parameters
    ----------
    images
        `(n, side, side)` of all particles, bright on 0.
    members
        Which of them belong to the class.
    transfers
        The contrast transfer of each particle; None: 1.
    scale
        Pixels of these images a pixel of those that were classified.
    """
    side = images.shape[-1]
    sums = np.zeros((2, side, side), np.float32)
    squares = np.zeros((side, side // 2 + 1))
    for half, number in enumerate(members.tolist()):
        image = images[number]
        if transfers is not None:
            gain = transfers[number]
            image = scipy.fft.irfft2(scipy.fft.rfft2(image) * gain, image.shape)
            squares += gain**2
        shift = found.shifts[number] * scale
        sums[half % 2] += laid_over(
            np.asarray(image, np.float32),
            angle_deg=float(found.angles_deg[number]),
            shift=(float(shift[0]), float(shift[1])),
        )
    count = max(len(members), 1)
    waves = scipy.fft.rfft2(sums)
    rings = _rings(side)
    sure = _ring_correlation(waves[0], waves[1], rings)
    weight = np.sqrt(np.clip(2 * sure / (1 + np.clip(sure, 0, None)), 0, 1))
    whole = (waves[0] + waves[1]) * weight[rings]
    strength = np.ones(squares.shape)
    if transfers is not None:
        strength = _ring_mean(squares / count, rings)[rings]
    whole /= count * (strength + _LEAST_TRANSFER)
    return Average(
        image=np.asarray(scipy.fft.irfft2(whole, (side, side)), np.float32),
        resolution_a=_resolution(sure, side * pixel_a),
        particles=len(members),
    )


def _rings(side: int) -> NDArray[np.int64]:
    fy = scipy.fft.fftfreq(side)[:, None] * side
    fx = scipy.fft.rfftfreq(side)[None, :] * side
    return np.minimum(np.rint(np.hypot(fy, fx)), side // 2).astype(np.int64)


def _ring_mean(values: NDArray[Any], rings: NDArray[np.int64]) -> np.ndarray:
    count = np.bincount(rings.ravel())
    return np.asarray(np.bincount(rings.ravel(), values.ravel()) / count)


def _ring_correlation(
    one: NDArray[np.complex64], other: NDArray[np.complex64], rings: NDArray[np.int64]
) -> NDArray[np.float64]:
    product = _ring_mean((one * other.conj()).real, rings)
    power = _ring_mean(np.abs(one) ** 2, rings) * _ring_mean(np.abs(other) ** 2, rings)
    return np.asarray(product / np.sqrt(np.maximum(power, 1e-30)))


def _resolution(sure: NDArray[np.float64], length_a: float) -> float | None:
    """Length of the ring before the first that is not sure."""
    weak = np.flatnonzero(sure[1:] < _SURE)
    rings = int(weak[0]) if len(weak) else len(sure) - 1
    return length_a / rings if rings else None
