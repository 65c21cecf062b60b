"""Spectra multiplied by a function of the frequency's length alone."""

import numba
import numpy as np
from numpy.typing import NDArray

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

_STEPS = 8192  # between 0 and the corner of the spectrum: errors of 1e-6 of the values


def radial_frequencies(pixel_nm: float) -> NDArray[np.float64]:
    """Frequencies, 1/nm, at which a table for `multiply` has its values: `(n,)`."""
    # A little beyond the corner, so that the last interval is whole.
    return np.linspace(0, np.sqrt(0.5) / pixel_nm * (1 + 2 / _STEPS), _STEPS + 1)


def multiply(
    spectrum: NDArray[np.complex64],
    table: NDArray[np.float64],
    *,
    shape: tuple[int, int],
    pixel_nm: float,
) -> None:
    """Multiply the `rfft2` or `fft2` of an image of `shape` by a radial function.

    Parameters
    ----------
    table
        Its values at `radial_frequencies(pixel_nm)`.
    """
    step = np.sqrt(0.5) * (1 + 2 / _STEPS) / _STEPS
    _multiply(spectrum, table.astype(np.float32), shape[1], 1 / step)


@_jit
def _multiply(spectrum, table, width, per_step):  # type: ignore[no-untyped-def]
    height = spectrum.shape[0]
    for row in range(height):
        v = (row if row <= height // 2 else row - height) / height
        for column in range(spectrum.shape[1]):
            u = (column if column <= width // 2 else column - width) / width
            place = np.sqrt(u * u + v * v) * per_step
            below = int(place)
            part = np.float32(place - below)
            value = table[below] * (1 - part) + table[below + 1] * part
            spectrum[row, column] *= value
