"""Alignment of a needle that turns about its own axis: nothing of it is foreshortened.

Along the axis all images show the same profile; across it the centre of mass of a body
that is whole in each image runs on a sine of the angle (Scott et al. 2012), so that it
can be put on the axis.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.polynomial.polynomial import polyfit, polyval
from numpy.typing import NDArray

from em_platform.cryoem.methods.tilt_images import (
    Images,
    Numbers,
    binned,
    fade,
    stretched,
)

# From here on a film is foreshortened so much more from image to image that it shows.
_STEEP_DEG = 25.0
_APART_DEG = 10.0
_CLEARLY = 1.05
_ROUNDS = 4
# Of an image's variance, in the mean profile across the axis: a needle has a tenth or
# more, round particles that are not foreshortened either much less.
_LEAST_SHARE, _PROFILE_PX = 0.12, 64
_PARTS = 3
# Of the needle's brightness: what is less belongs to the empty part.
_GROUND = 0.08


def is_rod(images: Images, *, angles_deg: Numbers, axis_deg: float) -> bool:
    """Whether one body stands upright, and steep images look more alike unstretched.

    Beads and other round things are not foreshortened either: that alone is no needle.
    """
    if _upright_share(images, axis_deg) < _LEAST_SHARE:
        return False
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


def _upright_share(images: Images, axis_deg: float) -> float:
    """How much of the images' variance their mean profile across the axis has."""
    factor = max(1, round(max(images.shape[1:]) / _PROFILE_PX))
    small = np.stack([binned(each, factor) for each in images])
    flat = _upright(small, axis_deg)
    edge = max(1, round(0.08 * flat.shape[2]))
    inner = flat[:, edge:-edge, edge:-edge]
    profiles = _without_slope(inner.mean(axis=1))
    return float(np.median(profiles.var(axis=1) / inner.var(axis=(1, 2))))


def _without_slope(profiles: Numbers) -> Numbers:
    """Each row of `(n, w)` without its linear trend.

    Not scipy.signal.detrend, whose import takes longer than that of all else here.
    """
    x = np.linspace(-1, 1, profiles.shape[1])
    rest: Numbers = profiles - polyval(x, polyfit(x, profiles.T, 1))
    return rest


def _upright(images: Images, axis_deg: float) -> Images:
    n = len(images)
    return stretched(
        images, angles_deg=np.zeros(n), axis_deg=axis_deg, shifts_px=np.zeros((n, 2))
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rod:
    """Where a needle is in each image `(n, ...)`, and how well that holds, in px.

    Attributes
    ----------
    correlation
        Of each image's profile along the axis with that of all.
    residual_px
        Root mean square of how far thirds of the needle are along the axis from those
        of all images, and across it from the sine on which a point moves.
    width_px
        The least that holds 96 % of its brightness.
    """

    shifts_px: Numbers
    correlation: Numbers
    residual_px: Numbers
    width_px: Numbers


def align_rod(images: Images, *, angles_deg: Numbers, axis_deg: float) -> Rod:
    """The needle of images `(n, h, w)`, level: what is none is near the least value."""
    n = len(images)
    flat = _upright(images, axis_deg)
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
    mass = body.sum(axis=1)
    across = _centres(mass)
    cos, sin = np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))
    lines = scipy.fft.irfft(moved, profiles.shape[1], axis=1)
    square = _squares_along(lines) + _squares_across(body, across, angles_deg)
    return Rod(
        shifts_px=np.stack(
            [cos * across - sin * along, sin * across + cos * along], axis=1
        ),
        correlation=product / np.sqrt(np.maximum(power, 1e-20)),
        residual_px=np.sqrt(square),
        width_px=_widths(mass),
    )


def _centres(mass: Numbers) -> Numbers:
    """The centre of mass of lines `(n, w)`, from their middle."""
    place = np.arange(mass.shape[1]) - (mass.shape[1] - 1) / 2
    return np.asarray((mass * place).sum(axis=1) / np.maximum(mass.sum(axis=1), 1e-20))


def _widths(mass: Numbers) -> Numbers:
    share = np.cumsum(mass, axis=1) / np.maximum(mass.sum(axis=1), 1e-20)[:, None]
    return np.asarray(np.sum((share > 0.02) & (share < 0.98), axis=1), float)


def _squares_along(lines: Numbers) -> Numbers:
    """Mean square of how far parts of aligned profiles `(n, h)` lie from the mean's.

    By the slope of the mean (Lucas & Kanade 1981); parts count as they have slopes.
    """
    mean = lines.mean(axis=0)
    slope = np.gradient(mean)
    squares, weights = [], []
    for part in np.array_split(np.arange(lines.shape[1]), _PARTS):
        weight = float(np.sum(slope[part] ** 2))
        moves = (lines[:, part] - mean[part]) @ slope[part] / max(weight, 1e-20)
        squares.append(moves**2)
        weights.append(weight)
    return np.asarray(np.average(squares, axis=0, weights=weights))


def _squares_across(body: Images, across: Numbers, angles_deg: Numbers) -> Numbers:
    """Mean square of how far parts of the body lie from their sines of the angle."""
    tilts = np.deg2rad(angles_deg)
    sines = np.stack([np.cos(tilts), np.sin(tilts)], axis=1)
    squares, weights = [], []
    for part in np.array_split(np.arange(body.shape[1]), _PARTS):
        mass = body[:, part].sum(axis=1)
        places = _centres(mass) - across
        left = places - sines @ np.linalg.lstsq(sines, places, rcond=None)[0]
        squares.append(left**2)
        weights.append(float(mass.sum()))
    return np.asarray(np.average(squares, axis=0, weights=weights))


def _peak(product: NDArray[np.complex128], length: int) -> float:
    """Where the correlation is highest, px, to parts of a pixel by a parabola."""
    line = scipy.fft.irfft(product, length)
    at = int(np.argmax(line))
    low, middle, high = line[at - 1], line[at], line[(at + 1) % length]
    bend = low - 2 * middle + high
    part = 0.5 * (low - high) / bend if bend < 0 else 0.0
    return float((at + length // 2) % length - length // 2 + part)
