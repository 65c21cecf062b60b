"""Shifts of frames against the sum of all others, by cross-correlation.

A shift is how far a feature has moved in a frame since the first: what is at `p` in
the first frame is at `p + shift` in this one. Method: leave-one-out reference as in
Li et al. 2013 and Zivanov et al. 2019, with a B-factor on the correlation.
"""

from collections.abc import Callable

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Complex = NDArray[np.complex64]
Reals = NDArray[np.float64]

"""RELION's default: high frequencies are noise at the dose of one frame."""


def crop_spectrum(spectrum: Complex, shape: tuple[int, int]) -> Complex:
    """The low frequencies of a half spectrum, `(h, w // 2 + 1)`, of a smaller image."""
    height, width = shape
    half = width // 2 + 1
    top = (height + 1) // 2
    return np.ascontiguousarray(
        np.concatenate((spectrum[:top, :half], spectrum[-(height - top) :, :half]))
    )


def frequencies(shape: tuple[int, int]) -> tuple[Reals, Reals]:
    """Cycles per pixel along y, `(h, 1)`, and x, `(1, w // 2 + 1)`."""
    height, width = shape
    along_y = np.asarray(np.fft.fftfreq(height), np.float64)[:, None]
    return along_y, np.asarray(np.fft.rfftfreq(width), np.float64)[None]


def shifted(spectrum: Complex, shift: Reals, shape: tuple[int, int]) -> Complex:
    """The spectrum of the image moved back by `shift`, `(y, x)` in its pixels."""
    fy, fx = frequencies(shape)
    y = np.exp(2j * np.pi * fy * shift[0]).astype(np.complex64)
    x = np.exp(2j * np.pi * fx * shift[1]).astype(np.complex64)
    return np.asarray(spectrum * y * x)


def correlation_weight(shape: tuple[int, int], b_factor: float) -> NDArray[np.float32]:
    """`exp(-B k^2 / 2)` without the zero frequency, `b_factor` in pixels squared."""
    fy, fx = frequencies(shape)
    weight = np.exp(-0.5 * b_factor * (fy**2 + fx**2)).astype(np.float32)
    weight[0, 0] = 0
    return weight


def align_frames(
    spectra: list[Complex],
    shape: tuple[int, int],
    *,
    b_factor: float,
    most: int,
    iterations: int = 6,
    tolerance: float = 0.02,
    map_frames: Callable[..., list[Reals]] | None = None,
) -> Reals:
    """Shifts of all frames from the first, `(t, 2)` as (y, x) in pixels of the spectra.

    Parameters
    ----------
    spectra
        Half spectra of the frames.
    most
        Pixels that a frame may be away from the sum.
    tolerance
        The iteration ends when no shift changes more.
    """
    weight = correlation_weight(shape, b_factor)
    shifts = np.zeros((len(spectra), 2))
    each_of = map_frames or (lambda act, items: [act(item) for item in items])
    for round_ in range(iterations):
        moved = [shifted(s, d, shape) for s, d in zip(spectra, shifts, strict=True)]
        total = np.sum(moved, axis=0)
        # The drift is large at first, and what is left of it small.
        reach = most if round_ == 0 else max(3, most // 2)

        def step(frame: Complex, total: Complex = total, reach: int = reach) -> Reals:
            product = frame * np.conj(total - frame) * weight
            return _peak(scipy.fft.irfft2(product, s=shape), reach)

        change = np.array(each_of(step, moved))
        shifts += change
        if np.abs(change - change.mean(0)).max() < tolerance:
            break
    return np.asarray(shifts - shifts[0])


def correlation_maps(
    moved: NDArray[np.complex64], shape: tuple[int, int], *, b_factor: float, reach: int
) -> NDArray[np.float32]:
    """Correlation of each frame with the sum of the others near no shift.

    Parameters
    ----------
    moved
        `(t, h, w // 2 + 1)`, the spectra moved back by what is known of their shift.

    Returns
    -------
    maps
        `(t, 2 * reach + 1, 2 * reach + 1)`, the middle is no shift; the unit is the
        standard deviation of the whole map.
    """
    weight = correlation_weight(shape, b_factor)
    total = moved.sum(0)
    product = moved * np.conj(total[None] - moved) * weight
    maps = scipy.fft.irfft2(product, s=shape, axes=(1, 2))
    spread = maps.std(axis=(1, 2), keepdims=True)
    maps /= np.maximum(spread, np.finfo(np.float32).tiny)
    window = np.arange(-reach, reach + 1)
    return np.asarray(maps[:, window[:, None], window[None]], np.float32)


def peaks(maps: NDArray[np.float32]) -> Reals:
    """Where each map is highest, from its middle, `(t, 2)` as (y, x)."""
    reach = maps.shape[1] // 2
    return np.array([_refined(each) - reach for each in maps])


def _peak(correlation: NDArray[np.float32], reach: int) -> Reals:
    height, width = correlation.shape
    reach = min(reach, height // 2 - 1, width // 2 - 1)
    window = np.arange(-reach, reach + 1)
    return _refined(correlation[window[:, None], window[None]]) - reach


def _refined(near: NDArray[np.float32]) -> Reals:
    """The highest place, by a parabola along each axis."""
    y, x = np.unravel_index(int(np.argmax(near)), near.shape)
    found = []
    for place, line in ((int(y), near[:, x]), (int(x), near[y])):
        if not 0 < place < len(line) - 1:
            found.append(float(place))
            continue
        before, here, after = (float(v) for v in line[place - 1 : place + 2])
        bend = before - 2 * here + after
        found.append(place + (0.5 * (before - after) / bend if bend < 0 else 0.0))
    return np.array(found)
