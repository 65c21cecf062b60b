"""A raw frame becomes an 8-bit tile with statistics, in one pass over its pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from em_platform.errors import DataError
from em_platform.imaging.contrast import grey_range as range_of
from em_platform.imaging.correct import FlatField
from em_platform.imaging.focus import focus_score
from em_platform.imaging.grey import correct_row
from em_platform.imaging.valid import Image
from em_platform.model import Box, TileStats
from em_platform.model.sentences import size_of

Kernel = Callable[..., None]

_KERNEL_TYPES: dict[str, types.Type] = {
    "u1": types.uint8,
    "u2": types.uint16,
    "f4": types.float32,
}
_inlined = numba.njit(nogil=True, fastmath=True, error_model="numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedTile:
    """An 8-bit tile, the same at half the resolution, and what its pixels say."""

    image: NDArray[np.uint8]
    half: NDArray[np.uint8]
    stats: TileStats


def process_tile(
    raw: Image,
    *,
    tile_id: str,
    flat_field: FlatField | None = None,
    grey_range: tuple[float, float] | None = None,
    valid: Box | None = None,
) -> ProcessedTile:
    """Flat-field, map to 8 bit, count grey levels, halve and judge the focus.

    Parameters
    ----------
    raw
        `(h, w)` uint8 or uint16; other numeric types are converted to float32.
    flat_field
        `(raw - dark) * gain`; without it the frame is taken as even.
    grey_range
        These corrected grey levels become 0 and 255. Without it uint8 stays as it is,
        and the 0.1 and 99.9 percentiles of this frame are used for all other types;
        give the tiles of one montage one range.
    valid
        Only these pixels count in the statistics, so that a black frame does not
        (:func:`em_platform.imaging.valid.valid_region`).

    Returns
    -------
    ProcessedTile
        `image` is `raw` itself where nothing has to be changed.

    Raises
    ------
    DataError
        The frame is not two-dimensional or does not fit the flat field.
    """
    frame = _frame(raw, tile_id)
    _check_size(frame, flat_field, tile_id=tile_id)
    box = valid or Box(y0=0, x0=0, y1=frame.shape[0], x1=frame.shape[1])
    counts = np.zeros((8, 256), np.uint32)
    height, width = frame.shape
    half = np.empty(((height + 1) // 2, (width + 1) // 2), np.uint8)
    bounds = (box.y0, box.y1, box.x0, box.x1)
    if frame.dtype == np.uint8 and flat_field is None and grey_range is None:
        image = np.asarray(frame, np.uint8)
        _counting()(image, bounds, counts, half)
    else:
        if grey_range is None:
            grey_range = _own_range(frame, flat_field)
        image = np.empty(frame.shape, np.uint8)
        gain, dark = _planes(flat_field, width)
        low, high = grey_range
        scale = np.float32(255.0 / max(high - low, 1e-6))
        # 0.5: the cut to 8 bits then rounds to the nearest.
        mapping = (scale, np.float32(0.5 - low * scale))
        _correcting(frame.dtype.str[1:])(
            frame, gain, dark, mapping, bounds, image, counts, half
        )
    part = image[box.y0 : box.y1, box.x0 : box.x1]
    stats = _stats(tile_id, counts.sum(axis=0), focus=focus_score(part))
    return ProcessedTile(image=image, half=half, stats=stats)


def _frame(raw: Image, tile_id: str) -> Image:
    """C-ordered, of this computer's byte order, of a type that a kernel takes."""
    if raw.ndim != 2 or raw.size == 0:
        raise DataError(
            f"tile {tile_id}: the frame has shape {raw.shape}, one grey image (height, "
            "width) expected; export it without colour and as single images"
        )
    if raw.dtype in (np.uint8, np.uint16):
        # The compiled signatures are of this computer's byte order only.
        native = raw if raw.dtype.isnative else raw.astype(raw.dtype.newbyteorder("="))
        return np.ascontiguousarray(native)
    # `correct_row` is compiled for numbers only (`nnan`, `ninf`).
    return np.nan_to_num(raw.astype(np.float32), posinf=0.0, neginf=0.0)


def _check_size(frame: Image, flat_field: FlatField | None, *, tile_id: str) -> None:
    if flat_field is not None and flat_field.gain.shape != frame.shape:
        found, expected = size_of(frame.shape), size_of(flat_field.gain.shape)
        raise DataError(
            f"tile {tile_id}: the frame is {found}, the flat field {expected}; give a "
            "flat field of the same camera and binning"
        )


def _own_range(frame: Image, flat_field: FlatField | None) -> tuple[float, float]:
    if frame.dtype == np.uint8:
        return 0.0, 255.0
    # One grey level has no percentiles, and is no error here.
    if frame.min() == frame.max():
        return 0.0, max(255.0, float(frame.max()))
    return range_of([frame], flat_field=flat_field)


def _planes(
    flat_field: FlatField | None, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gain and dark; one line of each stands for all lines where there is none."""
    gain = np.ones((1, width), np.float32)
    dark = np.zeros((1, width), np.float32)
    if flat_field is None:
        return gain, dark
    gain = np.ascontiguousarray(flat_field.gain, np.float32)
    if flat_field.dark is not None:
        dark = np.ascontiguousarray(flat_field.dark, np.float32)
    return gain, dark


def _stats(
    tile_id: str, histogram: NDArray[np.integer[Any]], *, focus: float
) -> TileStats:
    pixels = max(1, int(histogram.sum()))  # a valid box may be empty
    levels = np.arange(256)
    seen = np.flatnonzero(histogram)
    mean = float(levels @ histogram) / pixels
    variance = float((levels - mean) ** 2 @ histogram) / pixels
    return TileStats(
        tile_id=tile_id,
        minimum=int(seen[0]) if seen.size else 0,
        maximum=int(seen[-1]) if seen.size else 0,
        mean=mean,
        std=variance**0.5,
        focus=focus,
        saturated_fraction=float(histogram[0] + histogram[255]) / pixels,
        histogram=tuple(int(count) for count in histogram),
    )


@_inlined
def _count_row(row, counts):  # type: ignore[no-untyped-def]
    """Eight pixels a load, each into its own histogram.

    Equal neighbours then do not wait for each other's increment.
    """
    whole = row.size // 8 * 8
    words = row[:whole].view(np.uint64)
    last = np.uint64(255)
    for i in range(words.size):
        word = words[i]
        counts[0, word & last] += 1
        counts[1, (word >> np.uint64(8)) & last] += 1
        counts[2, (word >> np.uint64(16)) & last] += 1
        counts[3, (word >> np.uint64(24)) & last] += 1
        counts[4, (word >> np.uint64(32)) & last] += 1
        counts[5, (word >> np.uint64(40)) & last] += 1
        counts[6, (word >> np.uint64(48)) & last] += 1
        counts[7, word >> np.uint64(56)] += 1
    for x in range(whole, row.size):
        counts[0, row[x]] += 1


@_inlined
def _halve_rows(upper, lower, half):  # type: ignore[no-untyped-def]
    for x in range(upper.size // 2):
        left = np.uint16(upper[2 * x]) + np.uint16(lower[2 * x])
        right = np.uint16(upper[2 * x + 1]) + np.uint16(lower[2 * x + 1])
        half[x] = (left + right + np.uint16(2)) >> np.uint16(2)
    if upper.size % 2:
        last = np.uint16(upper[-1]) + np.uint16(lower[-1])
        half[-1] = (last + np.uint16(1)) >> np.uint16(1)


@_inlined
def _finish_rows(image, y, bounds, counts, half):  # type: ignore[no-untyped-def]
    """Count and halve lines `y` and `y + 1` while they are in the nearest cache."""
    # An odd last line is halved with itself.
    lower = min(y + 1, image.shape[0] - 1)
    y0, y1, x0, x1 = bounds
    if y0 <= y < y1:
        _count_row(image[y, x0:x1], counts)
    if lower > y and y0 <= lower < y1:
        _count_row(image[lower, x0:x1], counts)
    _halve_rows(image[y], image[lower], half[y // 2])


def _correct_count_halve(raw, gain, dark, mapping, bounds, image, counts, half):  # type: ignore[no-untyped-def]
    scale, offset = mapping
    for y in range(0, raw.shape[0], 2):
        for line in range(y, min(y + 2, raw.shape[0])):
            gain_row = gain[min(line, gain.shape[0] - 1)]
            dark_row = dark[min(line, dark.shape[0] - 1)]
            correct_row(raw[line], gain_row, dark_row, scale, offset, image[line])
        _finish_rows(image, y, bounds, counts, half)


def _count_halve(image, bounds, counts, half):  # type: ignore[no-untyped-def]
    for y in range(0, image.shape[0], 2):
        _finish_rows(image, y, bounds, counts, half)


# Signatures are given, with read-only inputs: what Dask or a memory map hands over is
# read-only, and would otherwise be compiled once more. They are compiled (or read from
# the cache on disk) when first used and not when this file is imported.


def _plane(of: types.Type, *, readonly: bool = False) -> types.Array:
    return types.Array(of, 2, "C", readonly=readonly)


_BOUNDS = types.Tuple([types.int64] * 4)  # type: ignore[no-untyped-call]
_RESULTS = (_plane(types.uint32), _plane(types.uint8))


@lru_cache
def _correcting(dtype: str) -> Kernel:
    pixel = _plane(_KERNEL_TYPES[dtype], readonly=True)
    factor = _plane(types.float32, readonly=True)
    mapping = types.Tuple([types.float32] * 2)  # type: ignore[no-untyped-call]
    signature = types.void(
        pixel, factor, factor, mapping, _BOUNDS, _plane(types.uint8), *_RESULTS
    )
    return _compiled(signature, _correct_count_halve)


@lru_cache
def _counting() -> Kernel:
    pixel = _plane(types.uint8, readonly=True)
    return _compiled(types.void(pixel, _BOUNDS, *_RESULTS), _count_halve)


def _compiled(signature: Any, function: Kernel) -> Kernel:
    compile_for = numba.njit(
        [signature], nogil=True, cache=True, fastmath=True, error_model="numpy"
    )
    return compile_for(function)
