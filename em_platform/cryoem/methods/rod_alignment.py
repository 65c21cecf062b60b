"""Alignment of a needle that turns about its own axis: nothing of it is foreshortened.

Along the axis all images show the same profile; across it the centre of mass of a body
that is whole in each image runs on a sine of the angle (Scott et al. 2012), so that it
can be put on the axis.
"""

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.cryoem.methods.tilt_images import Images, Numbers, fade, stretched

# From here on a film is foreshortened so much more from image to image that it shows.
_STEEP_DEG = 25.0
_APART_DEG = 10.0
_CLEARLY = 1.05
_ROUNDS = 4
# Of the needle's brightness: what is less belongs to the empty part.
_GROUND = 0.08


def is_rod(images: Images, *, angles_deg: Numbers, axis_deg: float) -> bool:
    """Whether steep neighbours look more alike as they are than stretched."""
    # Neighbours are much alike in either way: images some degrees apart are compared.
    gap = float(np.median(np.diff(angles_deg)))
    every = max(1, int(np.ceil(_APART_DEG / max(gap, 1e-3))))
    film, rod = [], []
    for first in range(every):
        some = np.arange(first, len(images), every)
        some = some[np.abs(angles_deg[some]) > _STEEP_DEG]
        if len(some) < 2:
            continue
        angles = angles_deg[some]
        film.append(_neighbours(images[some], angles, axis_deg).mean())
        rod.append(_neighbours(images[some], 0 * angles, axis_deg).mean())
    return bool(rod) and bool(np.mean(rod) > _CLEARLY * np.mean(film))


def _neighbours(images: Images, angles_deg: Numbers, axis_deg: float) -> Numbers:
    """Height of the peak of each image's correlation with the next, 1 if equal."""
    flat = stretched(
        images,
        angles_deg=angles_deg,
        axis_deg=axis_deg,
        shifts_px=np.zeros((len(images), 2)),
    )
    height, width = flat.shape[1:]
    found = scipy.fft.rfft2(flat * fade(height)[:, None] * fade(width)[None, :])
    # The middle frequencies: neither the film's gradient nor single pixels.
    ky, kx = scipy.fft.fftfreq(height)[:, None], scipy.fft.rfftfreq(width)[None, :]
    radius = np.hypot(ky, kx)
    found[:, (radius < 3 / height) | (radius > 0.2)] = 0
    planes = scipy.fft.irfft2(found, s=(height, width))
    power = np.sqrt((planes**2).sum((1, 2)))
    peaks = scipy.fft.irfft2(found[1:] * found[:-1].conj(), s=(height, width))
    return np.asarray(peaks.max((1, 2)) / np.maximum(power[1:] * power[:-1], 1e-20))


def align_rod(
    images: Images, *, axis_deg: float
) -> tuple[Numbers, NDArray[np.float64]]:
    """Shifts `(n, 2)` as dx, dy, and the correlation `(n,)` of each profile with all.

    Parameters
    ----------
    images
        `(n, h, w)`, level: what is no needle is near the least value.
    """
    n = len(images)
    flat = stretched(
        images, angles_deg=np.zeros(n), axis_deg=axis_deg, shifts_px=np.zeros((n, 2))
    )
    inner = flat[:, flat.shape[1] // 8 : -flat.shape[1] // 8]
    ground, top = np.quantile(inner, [0.2, 0.99], axis=(1, 2))[:, :, None, None]
    # Noise of the empty part would pull the centre of mass to the image's middle.
    body = np.maximum(flat - ground - _GROUND * (top - ground), 0)
    profiles = body.sum(axis=2)
    profiles -= profiles.mean(axis=1, keepdims=True)
    transforms = scipy.fft.rfft(profiles * fade(profiles.shape[1]), axis=1)
    frequency = scipy.fft.rfftfreq(profiles.shape[1])
    along = np.zeros(n)
    for _ in range(_ROUNDS):
        moved = transforms * np.exp(2j * np.pi * frequency * along[:, None])
        mean = moved.mean(axis=0)
        for i in range(n):
            # Without the image itself, which would hold its own place.
            others = mean - moved[i] / n
            along[i] += _peak(moved[i] * others.conj(), profiles.shape[1])
    along -= along[n // 2]
    moved = transforms * np.exp(2j * np.pi * frequency * along[:, None])
    mean = moved.mean(axis=0)
    product = (moved * mean.conj()).real.sum(axis=1)
    power = (np.abs(moved) ** 2).sum(axis=1) * (np.abs(mean) ** 2).sum()
    place = np.arange(flat.shape[2]) - (flat.shape[2] - 1) / 2
    across = (body.sum(axis=1) * place).sum(axis=1) / body.sum(axis=(1, 2))
    cos, sin = np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))
    shifts = np.stack([cos * across - sin * along, sin * across + cos * along], axis=1)
    return shifts, product / np.sqrt(np.maximum(power, 1e-20))


def _peak(product: NDArray[np.complex128], length: int) -> float:
    """Where the correlation is highest, px, to parts of a pixel by a parabola."""
    line = scipy.fft.irfft(product, length)
    at = int(np.argmax(line))
    low, middle, high = line[at - 1], line[at], line[(at + 1) % length]
    bend = low - 2 * middle + high
    part = 0.5 * (low - high) / bend if bend < 0 else 0.0
    return float((at + length // 2) % length - length // 2 + part)
