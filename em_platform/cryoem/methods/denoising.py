"""Noise taken out of a volume: by a Gaussian, or by total variation, block by block.

Total variation (Rudin, Osher & Fatemi 1992) is minimised by Chambolle's dual iteration
(2004), for the model |u - f|^2 / (2 weight) + sum of the gradient's lengths.
"""

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.float32]

# Chambolle's step, below the bound 1 / 12 of three dimensions.
_STEP = np.float32(0.08)


def gaussian(volume: Volume, *, sigma_px: float) -> Volume:
    """The volume `(z, y, x)` convolved with a Gaussian; its borders are mirrored."""
    return np.asarray(
        ndimage.gaussian_filter(volume, sigma_px, mode="reflect", truncate=4.0),
        np.float32,
    )


def total_variation(volume: Volume, *, weight: float, iterations: int) -> Volume:
    """The volume with less variation: flat areas stay flat, edges stay sharp.

    Parameters
    ----------
    weight
        In grey levels: how large a variation is noise. That of the noise itself, its
        standard deviation, is a good one.
    """
    if weight <= 0:
        return volume.copy()
    field = np.zeros((3, *volume.shape), np.float32)
    smooth = np.empty_like(volume)
    for _ in range(iterations):
        _primal(volume, field, np.float32(weight), smooth)
        _dual(smooth, field, np.float32(_STEP / weight))
    _primal(volume, field, np.float32(weight), smooth)
    return smooth


def noise_of(volume: Volume) -> float:
    """Standard deviation of white noise: from a second difference, by its median.

    What is smooth, and what is sharp but rare, does not count (Donoho & Johnstone).
    """
    difference = volume[:, :, 2:] - 2 * volume[:, :, 1:-1] + volume[:, :, :-2]
    return float(np.median(np.abs(difference)) / 0.6745 / np.sqrt(6))


@numba.njit(nogil=True, cache=True, fastmath=True)
def _primal(volume, field, weight, out):  # type: ignore[no-untyped-def]
    """The volume plus `weight` times the divergence of the field."""
    deep, height, width = volume.shape
    for z in range(deep):
        for y in range(height):
            for x in range(width):
                total = field[0, z, y, x] + field[1, z, y, x] + field[2, z, y, x]
                if z > 0:
                    total -= field[0, z - 1, y, x]
                if y > 0:
                    total -= field[1, z, y - 1, x]
                if x > 0:
                    total -= field[2, z, y, x - 1]
                out[z, y, x] = volume[z, y, x] + weight * total


@numba.njit(nogil=True, cache=True, fastmath=True)
def _dual(smooth, field, step):  # type: ignore[no-untyped-def]
    """One step of the field along the gradient, kept no longer than 1."""
    deep, height, width = smooth.shape
    zero = np.float32(0)
    for z in range(deep):
        for y in range(height):
            for x in range(width):
                here = smooth[z, y, x]
                # At the last voxel there is no gradient, and no field.
                dz = smooth[z + 1, y, x] - here if z + 1 < deep else zero
                dy = smooth[z, y + 1, x] - here if y + 1 < height else zero
                dx = smooth[z, y, x + 1] - here if x + 1 < width else zero
                a = field[0, z, y, x] + step * dz
                b = field[1, z, y, x] + step * dy
                c = field[2, z, y, x] + step * dx
                length = np.sqrt(a * a + b * b + c * c)
                if length > 1:
                    a, b, c = a / length, b / length, c / length
                field[0, z, y, x] = a
                field[1, z, y, x] = b
                field[2, z, y, x] = c
