"""Grid bars on a micrograph: dark edges that would hide everything else."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from em_platform.imaging.resample import halve

_BINS = 100
_SMOOTH = 2.0
_BRIGHT = 3.0
# A bar covers at least a twentieth as many pixels as the ice, at its grey level.
_PROMINENCE = 0.05


def without_grid_bars(image: NDArray[Any]) -> NDArray[np.float32] | None:
    """The image with its grid bar as grey as the darkest ice; None: it has no bar.

    A bar makes a second peak in the histogram of the image at a quarter of its size;
    all below the valley between both peaks becomes the valley's grey, and all that is
    brighter than the ice by more than three deviations, such as a hole, as bright.
    """
    from scipy.signal import find_peaks  # slower to load than all else, seldom needed

    values = np.asarray(image, np.float32)
    small = np.asarray(halve(np.asarray(halve(values), np.float32)), np.float32)
    counts, edges = np.histogram(small, bins=_BINS)
    # Zeros at both ends: a peak may be the first or the last bin.
    smooth = gaussian_filter1d(np.pad(counts.astype(np.float64), 5), _SMOOTH)
    peaks, _ = find_peaks(smooth, prominence=_PROMINENCE * smooth.max())
    if len(peaks) != 2:
        return None
    between = smooth[peaks[0] : peaks[1]]
    low = np.flatnonzero(between <= between.min() + _PROMINENCE * smooth.max() / 5)
    lowest = int(peaks[0] + low.mean())
    valley = np.float32(edges[np.clip(lowest - 5, 0, _BINS)])
    ice = values[values > valley]
    if not ice.size:
        return None
    bright = np.float32(ice.mean() + _BRIGHT * ice.std())
    return np.clip(values, valley, bright)
