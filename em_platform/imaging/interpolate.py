"""Band-limited images between their pixels: known shifts and smooth distortions.

Both use a sinc of 12 taps in a Kaiser window. For an image without power above about
0.35 cycles a pixel the result is the true one to a thousandth of its contrast.
"""

import functools

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

# More than half of the taps: what cv2 makes up beyond the border is cut off.
MARGIN_PX = 8
"""Pixels that a window must have beyond what is wanted of it, on every side."""

_TAPS = 12
_BEFORE = 5  # taps left of the pixel that a position falls in
_PHASES = 4096  # a place is rounded by 1/8192 px at most
_BETA = 7.0  # of the Kaiser window; I0(beta) below the line falls out with the total


def _weights(fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(n, 12)` weights that give the value `fraction` beyond the sixth tap."""
    offsets = np.arange(_TAPS) - _BEFORE - np.asarray(fractions)[:, None]
    inside = np.clip(1.0 - (offsets / (_TAPS / 2)) ** 2, 0.0, None)
    weights = np.sinc(offsets) * np.i0(_BETA * np.sqrt(inside))
    # A cut sinc does not add up to 1, and an even image must stay even.
    total = weights.sum(axis=1, keepdims=True)
    return weights / total  # type: ignore[no-any-return]


@functools.cache
def _table() -> NDArray[np.float32]:
    fractions = (np.arange(_PHASES) + 0.5) / _PHASES
    return _weights(fractions).astype(np.float32)


def shifted(
    window: NDArray[np.float32], *, dy: float, dx: float
) -> NDArray[np.float32]:
    """The values at `(y + MARGIN_PX + dy, x + MARGIN_PX + dx)`, `0 <= dy, dx < 1`.

    Parameters
    ----------
    window
        `(h + 2 * MARGIN_PX, w + 2 * MARGIN_PX)`; the result is `(h, w)`.
    """
    rows, columns = _weights(np.array([dy, dx]))
    inner = cv2.sepFilter2D(
        window, cv2.CV_32F, columns, rows, anchor=(_BEFORE, _BEFORE)
    )
    m = MARGIN_PX
    return np.ascontiguousarray(inner[m:-m, m:-m], dtype=np.float32)


def warped(
    window: NDArray[np.float32],
    grid: NDArray[np.float64],
    *,
    pitch_px: int,
    height: int,
    width: int,
) -> NDArray[np.float32]:
    """The values at the places that a coarse grid gives, bilinear in between.

    Parameters
    ----------
    window
        Float32; must hold 6 pixels around every place asked for.
    grid
        `(rows, columns, 2)`: where in the window, (y, x), pixel
        `(row * pitch_px, column * pitch_px)` of the result lies.
    """
    out = np.empty((height, width), np.float32)
    _warp(window, grid, pitch_px, _table(), out)
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _warp(
    window: np.ndarray,
    grid: np.ndarray,
    pitch: int,
    table: np.ndarray,
    out: np.ndarray,
) -> None:
    for i in range(out.shape[0]):
        row, fy = i // pitch, (i % pitch) / pitch
        for j in range(out.shape[1]):
            column, fx = j // pitch, (j % pitch) / pitch
            y = x = 0.0
            for k in range(2):
                share = fy if k else 1.0 - fy
                a, b = grid[row + k, column], grid[row + k, column + 1]
                y += share * (a[0] * (1.0 - fx) + b[0] * fx)
                x += share * (a[1] * (1.0 - fx) + b[1] * fx)
            iy, ix = int(y), int(x)
            rows = table[int((y - iy) * _PHASES)]
            columns = table[int((x - ix) * _PHASES)]
            value = np.float32(0.0)
            for p in range(_TAPS):
                line = np.float32(0.0)
                for q in range(_TAPS):
                    line += columns[q] * window[iy - _BEFORE + p, ix - _BEFORE + q]
                value += rows[p] * line
            out[i, j] = value
