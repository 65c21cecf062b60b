"""How large a mosaic may be, by its tiles' places and before anything is written."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from em_platform.model import Size

FARTHEST_PX = 1e12
"""Of a place from 0: beyond, a place has too few digits for parts of a pixel."""
# Regions that lie apart on one section leave most of the canvas empty; a wrong unit or
# one wrong number makes a million times the area.
_MOST_EMPTY = 100


def within_reach(y_px: ArrayLike, x_px: ArrayLike, size: Size) -> NDArray[np.bool_]:
    """Which tiles make a mosaic of at most 100 times their area, `(n,)`.

    Left out are those farthest from the middle (median) one; all are kept where they
    lie together.
    """
    y = np.asarray(y_px, np.float64) / size.height_px
    x = np.asarray(x_px, np.float64) / size.width_px
    distance = np.maximum(abs(y - np.median(y)), abs(x - np.median(x)))
    order = np.argsort(distance, kind="stable")
    high, wide = (
        np.maximum.accumulate(each[order]) - np.minimum.accumulate(each[order]) + 1.0
        for each in (y, x)
    )
    counts = np.arange(1, len(order) + 1)
    fits = np.flatnonzero(high * wide <= _MOST_EMPTY * counts)
    kept = np.zeros(len(order), np.bool_)
    kept[order[: int(fits[-1]) + 1 if len(fits) else 0]] = True
    return kept
