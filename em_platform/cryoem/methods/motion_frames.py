"""Frames as the camera should have given them: gain, dark, defects."""

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")

_DEFECT_SIGMA = 6.0
_BOX_PX = 64
"""Side of the squares in which a pixel is compared with its neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """What is done to each frame, arrays `(h, w)`."""

    gain: NDArray[np.float32] | None = None
    dark: NDArray[np.float32] | None = None
    defects: NDArray[np.int64] | None = None
    """Flat indices of pixels; the median of their neighbours replaces them."""


def correct(
    frame: NDArray[np.generic], corrections: Corrections
) -> NDArray[np.float32]:
    """A frame less dark, times gain, its defects replaced; `(h, w)`."""
    found = np.array(frame, np.float32)
    if corrections.dark is not None:
        found -= corrections.dark
    if corrections.gain is not None:
        found *= corrections.gain
    if corrections.defects is not None and len(corrections.defects):
        _replace(found, corrections.defects)
    return found


def find_defects(
    frames: int, read: Callable[[int], NDArray[np.float32]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pixels that stand out of the sum of all frames, and that sum, `(h, w)`.

    A pixel is one where it is further than 6 sigma from the mean of its square of 64 x
    64 pixels, both without the pixels that stand out.

    Parameters
    ----------
    read
        Gives a frame without its defects replaced.
    """
    total = np.array(read(0), np.float64)
    for index in range(1, frames):
        total += read(index)
    return _outliers(total, _BOX_PX, _DEFECT_SIGMA), total


@_jit
def _outliers(image, box, sigma):  # type: ignore[no-untyped-def]
    height, width = image.shape
    found = []
    for top in range(0, height, box):
        bottom = min(top + box, height)
        for left in range(0, width, box):
            right = min(left + box, width)
            low, high = -np.inf, np.inf
            # Bright pixels hide others in the first standard deviation.
            for _ in range(4):
                count, total, square = 0, 0.0, 0.0
                middle = image[top, left]
                for y in range(top, bottom):
                    for x in range(left, right):
                        value = image[y, x]
                        if low <= value <= high:
                            value -= middle
                            count += 1
                            total += value
                            square += value * value
                if count < 2:
                    break
                mean = total / count
                spread = np.sqrt(max(square / count - mean * mean, 0.0))
                low = middle + mean - sigma * spread - 1e-9
                high = middle + mean + sigma * spread + 1e-9
            for y in range(top, bottom):
                for x in range(left, right):
                    if not low <= image[y, x] <= high:
                        found.append(y * width + x)  # noqa: PERF401 - numba
    return np.array(found, dtype=np.int64)


@_jit
def _replace(image, defects):  # type: ignore[no-untyped-def]
    height, width = image.shape
    is_bad = np.zeros(image.size, dtype=np.bool_)
    for place in defects:
        is_bad[place] = True
    flat = image.ravel()
    near = np.empty(49, dtype=np.float32)
    for place in defects:
        y, x = place // width, place % width
        count = 0
        # Wider where a whole cluster is bad.
        for reach in (1, 2, 3):
            count = 0
            for j in range(max(0, y - reach), min(height, y + reach + 1)):
                for i in range(max(0, x - reach), min(width, x + reach + 1)):
                    if not is_bad[j * width + i]:
                        near[count] = flat[j * width + i]
                        count += 1
            if count >= 3:
                break
        flat[place] = np.median(near[:count]) if count else 0.0
