"""A raw frame, or a part of it, as 8-bit grey levels; nothing else is worked out."""

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

_TYPES: dict[str, types.Type] = {
    "uint8": types.uint8,
    "uint16": types.uint16,
    "float32": types.float32,
}


def to_grey(
    raw: NDArray[Any],
    *,
    gain: NDArray[np.float32] | None,
    dark: NDArray[np.float32] | None,
    grey_range: tuple[float, float],
) -> NDArray[np.uint8]:
    """`(raw - dark) * gain`, with `grey_range` mapped to 0..255.

    The same as :func:`em_platform.imaging.tile.process_tile` does, for those who need
    no statistics.

    Parameters
    ----------
    raw
        `(h, w)`; types other than uint8 and uint16 are converted to float32.
    gain, dark
        `(h, w)` of the same part of the camera.
    """
    if raw.dtype not in (np.uint8, np.uint16):
        # `correct_row` is compiled for numbers only (`nnan`, `ninf`).
        raw = np.nan_to_num(raw.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = grey_range
    scale = np.float32(255.0 / max(high - low, 1e-6))
    # 0.5: the cut to 8 bits then rounds to the nearest.
    mapping = (scale, np.float32(0.5 - low * scale))
    out = np.empty(raw.shape, np.uint8)
    ones = np.ones((1, raw.shape[1]), np.float32)
    _mapping(raw.dtype.name)(
        np.ascontiguousarray(raw),
        np.ascontiguousarray(ones if gain is None else gain, np.float32),
        np.ascontiguousarray(0 * ones if dark is None else dark, np.float32),
        mapping,
        out,
    )
    return out


# Neither reordered nor fused (no `reassoc`, no `contract`): else the compiler rounds as
# it likes in each kernel that this is part of, and the same frame gives other pixels.
@numba.njit(nogil=True, fastmath={"nnan", "ninf", "nsz"}, error_model="numpy")
def correct_row(raw, gain, dark, scale, offset, row):  # type: ignore[no-untyped-def]
    """One line of a frame as 8-bit grey levels, to the digit the same everywhere."""
    for x in range(raw.size):
        grey = (np.float32(raw[x]) - dark[x]) * gain[x] * scale + offset
        row[x] = np.uint8(min(max(grey, np.float32(0.0)), np.float32(255.0)))


def _map_rows(raw, gain, dark, mapping, out):  # type: ignore[no-untyped-def]
    scale, offset = mapping
    for y in range(raw.shape[0]):
        gain_row = gain[min(y, gain.shape[0] - 1)]
        dark_row = dark[min(y, dark.shape[0] - 1)]
        correct_row(raw[y], gain_row, dark_row, scale, offset, out[y])


@lru_cache
def _mapping(dtype: str) -> Any:
    def plane(of: types.Type, *, readonly: bool) -> types.Array:
        return types.Array(of, 2, "C", readonly=readonly)

    factor = plane(types.float32, readonly=True)
    mapping = types.UniTuple(types.float32, 2)  # type: ignore[no-untyped-call]
    raw = plane(_TYPES[dtype], readonly=True)
    out = plane(types.uint8, readonly=False)
    signature = types.void(raw, factor, factor, mapping, out)
    compiled = numba.njit(
        [signature], nogil=True, cache=True, fastmath=True, error_model="numpy"
    )
    return compiled(_map_rows)
