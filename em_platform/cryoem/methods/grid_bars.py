"""Grid bars on a micrograph: dark edges that would hide everything else."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.imaging.resample import halve

_BINS = 100
# Peaks of the histogram in its outer tails, or this close together, are noise.
_FIRST, _LAST, _APART = 5, 75, 5


def without_grid_bars(image: NDArray[Any]) -> NDArray[np.float32] | None:
    """The image with its grid bar as grey as the darkest ice; None: it has no bar.

    A bar makes a second peak in the histogram of the image at a quarter of its size;
    all below the valley between both peaks becomes the valley's grey, and so does what
    is brighter than the ice by more than a deviation, such as a hole in it.
    """
    values = np.asarray(image, np.float32)
    small = np.asarray(halve(np.asarray(halve(values), np.float32)), np.float32)
    counts, edges = np.histogram(small, bins=_BINS)
    slope = np.sign(np.diff(counts))
    turns = np.flatnonzero(np.abs(np.diff(slope)) == 2)  # noqa: PLR2004
    near = np.zeros(len(turns), bool)
    close = np.diff(turns) < _APART
    near[:-1] |= close
    near[1:] |= close
    kept = turns[~near & (turns >= _FIRST) & (turns <= _LAST)]
    if len(kept) != 3:  # noqa: PLR2004 - peak, valley, peak
        return None
    valley = np.float32(edges[kept[1] + 1])
    ice = small[small > valley]
    if not ice.size:
        return None
    bright = np.float32(ice.mean() + ice.std())
    flat = np.maximum(values, valley)
    flat[flat > bright] = valley
    return flat
