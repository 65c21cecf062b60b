"""How alike a tomogram and the true sample are, by shells of what was measured.

Fourier shell correlation after Harauz & van Heel (1986), only where tilts have been:
the missing wedge holds nothing that could be compared.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Volume = NDArray[np.float32]

_TAPERED = 0.1
"""Of the width, at each side: there the tilts see different parts of the sample."""
_FEWEST = 8  # coefficients of a shell; fewer correlate by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellCorrelation:
    """How alike two volumes are, when one of them is moved to where the other is.

    Attributes
    ----------
    distances_a, correlations
        `(n,)`: the distance in Å for which each shell stands, coarsest first, and the
        correlation there, -1 to 1.
    mean
        Over all shells, each by its number of coefficients.
    shift_px
        `(z, y, x)` of the first volume from the second.
    """

    distances_a: NDArray[np.float64]
    correlations: NDArray[np.float64]
    mean: float
    shift_px: tuple[float, float, float]

    def finest_a(self, least: float) -> float | None:
        """The finest distance up to which all shells correlate by at least this."""
        below = np.flatnonzero(self.correlations < least)
        last = int(below[0]) if len(below) else len(self.correlations)
        return float(self.distances_a[last - 1]) if last else None


def correlate_shells(
    volume: Volume,
    sample: Volume,
    *,
    tilts_deg: NDArray[np.float64],
    voxel_a: float,
    finest_a: float,
    most_shift_px: int,
) -> ShellCorrelation:
    """The correlation of two volumes `(z, y, x)` of one shape, y along the tilt axis.

    Shells finer than `finest_a` are left out. An alignment leaves a shift of the whole
    sample free, so the one is sought that fits best, up to `most_shift_px` each way.
    """
    frequencies = _frequencies(volume.shape, voxel_a)
    z, y, x = frequencies
    radius = np.sqrt(z**2 + y**2 + x**2)
    step = 1 / (min(volume.shape) * voxel_a)
    shell = np.rint(radius / step).astype(np.intp)
    # The coarsest shell has the ice's own shape, which is in no image.
    used = _measured(z, x, np.deg2rad(tilts_deg)) & (shell > 1)
    used &= radius <= 1 / finest_a
    first, second = (scipy.fft.rfftn(_tapered(each)) for each in (volume, sample))
    cross = np.where(used, first * second.conj(), 0)
    shift = _shift_of(cross, volume.shape, most_shift_px)
    phase = sum(f * s * voxel_a for f, s in zip(frequencies, shift, strict=True))
    moved = cross * np.exp(2j * np.pi * phase)
    # All but the first and last column stand for their mirror image, too.
    weight = np.full(cross.shape, 2.0)
    weight[..., 0] = 1
    weight[..., -1] = 1 if volume.shape[2] % 2 == 0 else 2
    weight *= used

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(shell.ravel(), (weight * values).ravel())
        return np.asarray(sums, np.float64)

    power = summed(np.abs(first) ** 2) * summed(np.abs(second) ** 2)
    number = summed(np.ones(cross.shape))
    filled = np.flatnonzero((number >= _FEWEST) & (power > 0))
    found = summed(moved.real)[filled] / np.sqrt(power[filled])
    return ShellCorrelation(
        distances_a=1 / (filled * step),
        correlations=found,
        mean=float(np.average(found, weights=number[filled])) if len(found) else 0.0,
        shift_px=shift,
    )


def _frequencies(
    shape: tuple[int, ...], voxel_a: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    deep, height, width = shape
    return (
        scipy.fft.fftfreq(deep, voxel_a)[:, None, None],
        scipy.fft.fftfreq(height, voxel_a)[:, None],
        scipy.fft.rfftfreq(width, voxel_a),
    )


def _measured(
    z: NDArray[np.float64], x: NDArray[np.float64], tilts_rad: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Where a tilt has measured: the image of a tilt is the plane at its angle."""
    angle = np.arctan2(z, np.maximum(x, 0))
    low, high = float(tilts_rad.min()), float(tilts_rad.max())
    inside = (angle >= low) & (angle <= high)
    # Along the axis all tilts measure; there the angle is undefined.
    return np.asarray(inside | ((z == 0) & (x == 0)))


def _tapered(volume: Volume) -> Volume:
    """A volume of mean 0 that ends softly along y and x, as it is no period."""
    level = volume - volume.mean(dtype=np.float64)
    soft = _soft(volume.shape[1])[:, None] * _soft(volume.shape[2])
    return np.asarray(level * soft, np.float32)


def _soft(side: int) -> NDArray[np.float64]:
    away = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    inside = np.minimum(away / (_TAPERED * side), 1)
    return np.asarray(np.sin(np.pi / 2 * inside) ** 2)


def _shift_of(
    cross: NDArray[np.complex128], shape: tuple[int, ...], most_px: int
) -> tuple[float, float, float]:
    """The highest place of a cross-correlation near its middle, `(z, y, x)`."""
    peaks = scipy.fft.irfftn(cross, s=shape)
    near = np.ix_(*[np.arange(-most_px, most_px + 1) % side for side in shape])
    inner = peaks[near]
    at = np.unravel_index(int(np.argmax(inner)), inner.shape)
    place = [int(i) - most_px for i in at]
    found = []
    for axis in range(3):
        below, here, above = (
            float(
                peaks[tuple(p + (d if a == axis else 0) for a, p in enumerate(place))]
            )
            for d in (-1, 0, 1)
        )
        bend = below - 2 * here + above
        # The top of the parabola through three values.
        found.append(place[axis] + (0.5 * (below - above) / bend if bend < 0 else 0.0))
    return found[0], found[1], found[2]
