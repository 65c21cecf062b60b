"""Particles found as dark blobs by the Laplacian of a Gaussian.

The response to a disc of diameter d is largest for a Gaussian of deviation d / sqrt(8)
(Lindeberg, Int. J. Comput. Vis. 30, 79 (1998)). Responses of several scales are put on
one footing by their own noise, so that a score is in standard deviations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d, maximum_filter

from em_platform.imaging.fourier import parabola

Float = NDArray[np.float32]

SCALES = 5
"""Diameters that are tried between the least and the largest."""
_LEAST_PX = 10.0
"""The smallest particle after binning: finer sampling costs time and finds no more."""
_FLAT = 4.0
"""Grey levels that change over this many diameters are ice, not particles."""
_APART = 0.5
"""Of the smallest diameter: what lies nearer is the same particle seen twice."""
_OUTLIER = 5.0
"""Deviations at which a pixel is clipped: ice crystals and gold would outshine all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """Middles `(n, 2)` as `(x, y)` and diameters, px, by falling score."""

    points: NDArray[np.float64]
    diameters_px: NDArray[np.float64]
    scores: NDArray[np.float64]


def find_particles(
    image: NDArray[Any],
    *,
    diameters_px: tuple[float, float],
    threshold: float,
    bright: bool = False,
    apart_px: float = 0.0,
) -> Picks:
    """Blobs of some sizes in a micrograph.

    Parameters
    ----------
    image
        `(h, w)`, with contrast and without NaN; particles are dark unless `bright`.
    diameters_px
        The least and the largest.
    threshold
        Deviations of the response by which a blob must stand out.
    apart_px
        Least distance of two particles; 0: half of the least diameter.
    """
    small, least = diameters_px[0], min(diameters_px)
    factor = max(1, int(least / _LEAST_PX))
    binned = _binned(image, factor)
    if not bright:
        binned *= -1
    sizes = np.geomspace(small, diameters_px[1], SCALES)
    if np.isclose(sizes[0], sizes[-1]):
        sizes = sizes[:1]
    responses = _responses(_flat(binned, max(diameters_px) / factor), sizes / factor)
    return _peaks(
        responses,
        sizes,
        factor=factor,
        threshold=threshold,
        apart=(apart_px or _APART * least) / factor,
    )


def _binned(image: NDArray[Any], factor: int) -> Float:
    height, width = (n // factor * factor for n in image.shape)
    cut = np.asarray(image[:height, :width], np.float32)
    if factor == 1:
        return cut.copy()
    shape = height // factor, factor, width // factor, factor
    return np.asarray(cut.reshape(shape).mean(axis=(1, 3)), np.float32)


def _flat(image: Float, diameter_px: float) -> Float:
    """Without what changes slowly, and with mean 0 and deviation 1."""
    slow = gaussian_filter(image, _FLAT * diameter_px / np.sqrt(8), mode="nearest")
    flat = image - slow
    flat /= max(float(flat.std()), float(np.finfo(np.float32).tiny))
    return np.clip(flat, -_OUTLIER, _OUTLIER, out=flat)


def _responses(image: Float, sizes: NDArray[np.float64]) -> Float:
    """`(scales, h, w)`: how far each place stands out as the middle of a disc."""
    pad = int(np.ceil(sizes.max()))
    padded = np.pad(image, pad, mode="reflect" if pad < min(image.shape) else "edge")
    shape = [scipy.fft.next_fast_len(n, real=True) for n in padded.shape]
    wave = scipy.fft.rfft2(padded, shape)
    fy = scipy.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    fx = scipy.fft.rfftfreq(shape[1]).astype(np.float32)[None, :]
    square = (2 * np.pi) ** 2 * (fy**2 + fx**2)
    height, width = image.shape
    found = np.empty((len(sizes), height, width), np.float32)
    for place, size in enumerate(sizes):
        variance = np.float32(size**2 / 8)
        kernel = square * variance * np.exp(-square * variance / 2)
        response = scipy.fft.irfft2(wave * kernel, shape)
        found[place] = response[pad : pad + height, pad : pad + width]
        found[place] -= np.median(found[place])
        noise = float(_noise(found[place], axis=None))
        found[place] /= max(noise, float(np.finfo(np.float32).tiny))
        found[place] /= _border_noise(found[place], reach=pad, width=float(size))
    return found


def _noise(values: Float, *, axis: int | None) -> NDArray[np.float64]:
    # 1.4826: of a normal distribution the deviation over the median distance.
    return np.asarray(1.4826 * np.median(np.abs(values), axis=axis), np.float64)


def _border_noise(response: Float, *, reach: int, width: float) -> Float:
    """`(h, w)`: how much noisier than the whole each place near a side is, at least 1.

    There motion correction has repeated the last row or column of frames, as streaks,
    and what is beyond is a mirror image: blobs of noise would look like particles.
    """
    height, length = response.shape
    levels = []
    for axis, count in ((1, height), (0, length)):
        level = np.ones(count)
        near = min(reach, count // 2)
        if near:
            for side in (slice(0, near), slice(count - near, count)):
                lines = response[side] if axis else response[:, side]
                noise = _noise(lines, axis=axis)
                level[side] = gaussian_filter1d(noise, width / 8, mode="nearest")
        levels.append(np.maximum(level, 1))
    # A corner has the streaks of both its sides.
    return np.asarray(levels[0][:, None] * levels[1][None, :], np.float32)


def _peaks(
    responses: Float,
    sizes: NDArray[np.float64],
    *,
    factor: int,
    threshold: float,
    apart: float,
) -> Picks:
    best = responses.max(axis=0)
    reach = max(1, int(apart))
    is_top = (best == maximum_filter(best, 2 * reach + 1)) & (best > threshold)
    ys, xs = np.nonzero(is_top)
    order = np.argsort(-best[ys, xs], kind="stable")
    ys, xs = ys[order], xs[order]
    kept = _apart(ys, xs, apart)
    ys, xs = ys[kept], xs[kept]
    points = np.empty((len(ys), 2))
    for i, (y, x) in enumerate(zip(ys.tolist(), xs.tolist(), strict=True)):
        points[i] = x + _fraction(best[y], x), y + _fraction(best[:, x], y)
    # Pixel (0, 0) of the binned image is the mean of the first `factor` pixels.
    points = points * factor + (factor - 1) / 2
    return Picks(
        points=points,
        diameters_px=sizes[responses[:, ys, xs].argmax(axis=0)],
        scores=best[ys, xs].astype(np.float64),
    )


def _fraction(line: Float, at: int) -> float:
    if not 0 < at < len(line) - 1:
        return 0.0
    return parabola(float(line[at - 1]), float(line[at]), float(line[at + 1]))


def _apart(
    ys: NDArray[np.int64], xs: NDArray[np.int64], apart: float
) -> NDArray[np.int64]:
    """Which to keep, the better first, so that none lie nearer than `apart`."""
    kept: list[int] = []
    for i in range(len(ys)):
        near = (ys[kept] - ys[i]) ** 2 + (xs[kept] - xs[i]) ** 2 < apart**2
        if not near.any():
            kept.append(i)
    return np.asarray(kept, np.int64)
