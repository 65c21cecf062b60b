"""Shifts of frames against the sum of all others, by cross-correlation.

A shift is how far a feature has moved in a frame since the first: what is at `p` in
the first frame is at `p + shift` in this one. Method: leave-one-out reference as in
Li et al. 2013 and Zivanov et al. 2019, with a B-factor on the correlation.
"""

from collections.abc import Callable

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Complex = NDArray[np.complex64]
Reals = NDArray[np.float64]

_CLEAR, _LEAST = 12.0, 6.5
"""Deviations of a correlation that its peak stands out: wanted, and needed. Of noise
alone the highest place within reach stands out 3.3 to 4.2."""
_NEIGHBOURS = (0.0, 1.0, 2.0, 4.0)
"""Frames over which correlations are averaged until peaks are clear."""
_ALIKE = 0.5
"""A frame with this correlation is no noise, however broad its peak is."""


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
    map_frames: Callable[..., list[tuple[NDArray[np.float32], float]]] | None = None,
) -> Reals | None:
    """Shifts of all frames from the first, `(t, 2)` as (y, x) in pixels of the spectra.

    Parameters
    ----------
    spectra
        Half spectra of the frames.
    most
        Pixels that a frame may be away from the sum.
    tolerance
        The iteration ends when no shift changes more.

    Returns
    -------
    shifts
        None where nothing stands out of the noise: peaks of noise are worse than none.
    """
    weight = correlation_weight(shape, b_factor)
    shifts = np.zeros((len(spectra), 2))
    each_of = map_frames or (lambda act, items: [act(item) for item in items])
    for round_ in range(iterations):
        moved = [shifted(s, d, shape) for s, d in zip(spectra, shifts, strict=True)]
        total = np.sum(moved, axis=0)
        # The drift is large at first, and what is left of it small.
        reach = most if round_ == 0 else max(3, most // 2)

        def step(
            frame: Complex, total: Complex = total, reach: int = reach
        ) -> tuple[NDArray[np.float32], float]:
            return _correlation(frame, total - frame, weight, shape, reach)

        maps, alike = zip(*each_of(step, moved), strict=True)
        clear = _clear_of_noise(np.array(maps), alike=float(np.median(alike)))
        if clear is None:
            return None
        change = peaks(clear)
        shifts += change
        if np.abs(change - change.mean(0)).max() < tolerance:
            break
    return np.asarray(shifts - shifts[0])


def _correlation(
    one: Complex,
    other: Complex,
    weight: NDArray[np.float32],
    shape: tuple[int, int],
    reach: int,
) -> tuple[NDArray[np.float32], float]:
    """Correlation near no shift in its standard deviations, and how alike both are."""
    product = one * np.conj(other) * weight
    whole = scipy.fft.irfft2(product, s=shape)
    reach = min(reach, shape[0] // 2 - 1, shape[1] // 2 - 1)
    window = np.arange(-reach, reach + 1)
    near = whole[window[:, None], window[None]]
    # The most that a sum of these products can be, were all their phases equal.
    most = 2 * float(np.abs(product).sum()) / (shape[0] * shape[1])
    tiny = 1e-30
    alike = float(near.max()) / max(most, tiny)
    return np.asarray(near / max(float(whole.std()), tiny), np.float32), alike


def _clear_of_noise(
    maps: NDArray[np.float32], *, alike: float
) -> NDArray[np.float32] | None:
    """Maps averaged over as many frames as make peaks clear; None: none stands out."""
    averaged, height = maps, 0.0
    for frames in _NEIGHBOURS:
        averaged = maps
        shrunk = 1.0
        if frames:
            # Motion is slow, noise is not.
            averaged = gaussian_filter1d(maps, frames, axis=0, mode="nearest")
            middle = np.zeros(len(maps))
            middle[len(maps) // 2] = 1
            kernel = gaussian_filter1d(middle, frames, mode="nearest")
            shrunk = float(np.sqrt((kernel**2).sum()))
        height = float(np.median(averaged.max((1, 2)))) / shrunk
        if height >= _CLEAR or (not frames and alike >= _ALIKE):
            return averaged
    return averaged if height >= _LEAST else None


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
