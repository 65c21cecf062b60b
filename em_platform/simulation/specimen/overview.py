"""Procedural tissue as low magnifications show it: spots, no membranes.

At 40 nm a pixel and more cells are a few pixels wide; drawing each of them would cost
seconds a frame. This is hashed noise of three sizes; any window of it, from a seed.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from em_platform.imaging.hashed_noise import hash3, smooth_noise

COARSE_NM = 32.0
"""From this pixel size on the tissue is drawn so."""

_MEAN = 150.0  # that of `tissue`, so that a change of magnification keeps the light
_WAVES = ((2_000.0, 16.0), (7_000.0, 12.0), (30_000.0, 10.0))
"""Size of the spots in nm, and their contrast in grey levels."""


def overview(
    y0: int,
    x0: int,
    *,
    height: int,
    width: int,
    section: int = 0,
    seed: int = 0,
    pixel_nm: float = 80.0,
) -> NDArray[np.float32]:
    """Grey levels `(height, width)` of one window; spots finer than 4 px are left out.

    A world pixel has the same value in every window that holds it.
    """
    out = np.empty((height, width), np.float32)
    # finer ones would alias; the coarsest always stays
    waves = [wave for wave in _WAVES if wave[0] >= 4 * pixel_nm] or [_WAVES[-1]]
    # one bit less: numba takes it for a signed number
    key = int(hash3(seed, section, 0x0E4)) >> 1
    _draw(y0, x0, pixel_nm, np.array(waves), key, out)
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _draw(
    y0: int, x0: int, pixel_nm: float, waves: np.ndarray, key: int, out: np.ndarray
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            level = _MEAN
            for k in range(waves.shape[0]):
                y = (y0 + i) * pixel_nm / waves[k, 0]
                x = (x0 + j) * pixel_nm / waves[k, 0]
                # turned, so that no axis of the noise shows
                level += waves[k, 1] * smooth_noise(
                    0.80 * y + 0.60 * x, 0.80 * x - 0.60 * y, key + k
                )
            out[i, j] = level
