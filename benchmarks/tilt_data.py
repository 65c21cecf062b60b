"""Tilt series with known truth: Gaussian blobs in a slab, projected exactly.

A round Gaussian blob projects to a round Gaussian in any direction, so images and
volume are exact, whatever the tilt axis. The slab is wider than the images: new
material comes in at high tilts, as in a real specimen.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Blobs:
    """Blobs of a specimen, px from its middle: `(n, 3)` as x, y, z along the axis y."""

    places: NDArray[np.float64]
    sigma_px: NDArray[np.float64]
    weights: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltSeries:
    """Images `(n, h, w)` and what is true of them."""

    images: NDArray[np.float32]
    angles_deg: NDArray[np.float64]
    axis_deg: float
    shifts_px: NDArray[np.float64]
    """`(n, 2)` as dx, dy: where the specimen's middle lies from the image's middle."""


def blobs(
    rng: np.random.Generator, *, size: int, thickness_px: float, density: float = 2e-3
) -> Blobs:
    """Blobs at random in a slab 2.6 images wide, `density` of them a square pixel."""
    width = 2.6 * size
    count = int(density * width**2)
    half = np.array([width / 2, width / 2, thickness_px / 2])
    return Blobs(
        places=rng.uniform(-half, half, (count, 3)),
        sigma_px=rng.choice([2.0, 3.0, 5.0, 9.0], count, p=[0.5, 0.3, 0.15, 0.05]),
        weights=rng.uniform(0.5, 1.5, count),
    )


def tilt_series(
    specimen: Blobs,
    rng: np.random.Generator,
    *,
    size: int,
    angles_deg: NDArray[np.float64],
    axis_deg: float = 0.0,
    shift_px: float = 0.0,
    snr: float = np.inf,
) -> TiltSeries:
    """Images of the blobs; `snr` is variance of signal over that of noise at 0 deg."""
    shifts = rng.normal(0, shift_px, (len(angles_deg), 2)) if shift_px else None
    if shifts is None:
        shifts = np.zeros((len(angles_deg), 2))
    images = np.stack(
        [
            projection(specimen, size, angle_deg=a, axis_deg=axis_deg, shift_px=s)
            for a, s in zip(angles_deg, shifts, strict=True)
        ]
    )
    if np.isfinite(snr):
        flat = images[int(np.argmin(np.abs(angles_deg)))]
        spread = float(flat.std()) / np.sqrt(snr)
        images += spread * rng.standard_normal(images.shape, dtype=np.float32)
    return TiltSeries(
        images=images, angles_deg=angles_deg, axis_deg=axis_deg, shifts_px=shifts
    )


def projection(
    specimen: Blobs,
    size: int,
    *,
    angle_deg: float,
    axis_deg: float,
    shift_px: NDArray[np.float64],
) -> NDArray[np.float32]:
    """One image `(size, size)`; the axis is counted from the image's y, IMOD's way."""
    tilt, turn = np.deg2rad(angle_deg), np.deg2rad(axis_deg)
    x, along, z = specimen.places.T
    across = x * np.cos(tilt) + z * np.sin(tilt)
    middle = (size - 1) / 2
    column = middle + shift_px[0] + np.cos(turn) * across - np.sin(turn) * along
    row = middle + shift_px[1] + np.sin(turn) * across + np.cos(turn) * along
    image = np.zeros((size, size), np.float32)
    _add_blobs(image, row, column, specimen.sigma_px, specimen.weights)
    return image


def volume_of(
    specimen: Blobs, shape: tuple[int, int, int], *, rows: slice | None = None
) -> NDArray[np.float32]:
    """Density `(z, y, x)` of the blobs around the middle, or some rows y of it.

    Lines through it add up to the images.
    """
    first, last, _ = (rows or slice(None)).indices(shape[1])
    volume = np.zeros((shape[0], last - first, shape[2]), np.float32)
    z, y, x = ((side - 1) / 2 for side in shape)
    places = specimen.places
    _add_balls(
        volume, places[:, 2] + z, places[:, 1] + y - first, places[:, 0] + x,
        specimen.sigma_px, specimen.weights,
    )  # fmt: skip
    return volume


@numba.njit(nogil=True, cache=True)
def _add_blobs(image, rows, columns, sigmas, weights):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        reach = int(4 * sigmas[i]) + 1
        y, x = round(rows[i]), round(columns[i])
        scale = -0.5 / sigmas[i] ** 2
        for r in range(max(0, y - reach), min(image.shape[0], y + reach + 1)):
            part = weights[i] * np.exp(scale * (r - rows[i]) ** 2)
            for c in range(max(0, x - reach), min(image.shape[1], x + reach + 1)):
                image[r, c] += part * np.exp(scale * (c - columns[i]) ** 2)


@numba.njit(nogil=True, cache=True)
def _add_balls(volume, zs, ys, xs, sigmas, weights):  # type: ignore[no-untyped-def]
    for i in range(len(zs)):
        reach = int(4 * sigmas[i]) + 1
        z0, y0, x0 = round(zs[i]), round(ys[i]), round(xs[i])
        scale = -0.5 / sigmas[i] ** 2
        # The integral of the ball along a line is the blob of the image.
        height = weights[i] / (sigmas[i] * np.sqrt(2 * np.pi))
        for z in range(max(0, z0 - reach), min(volume.shape[0], z0 + reach + 1)):
            at_z = height * np.exp(scale * (z - zs[i]) ** 2)
            for y in range(max(0, y0 - reach), min(volume.shape[1], y0 + reach + 1)):
                at_y = at_z * np.exp(scale * (y - ys[i]) ** 2)
                for x in range(
                    max(0, x0 - reach), min(volume.shape[2], x0 + reach + 1)
                ):
                    volume[z, y, x] += at_y * np.exp(scale * (x - xs[i]) ** 2)
