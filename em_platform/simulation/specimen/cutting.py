"""What cutting does to a section: marks of the knife, and folds.

Lengths are in units of 4 nm, as in `cells`. A window's result depends on its world
pixels alone: what is too far to be seen in it adds nothing at all.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from em_platform.imaging.hashed_noise import (
    Bits,
    drifting_noise,
    hash3,
    mix,
    smooth_noise,
    unit,
)

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

MOST_MARKS, MOST_FOLDS = 4, 16
"""Marks in 10 um, and folds in a square of 100 um, that there can be."""

_MARK_PITCH = 2500.0  # 10 um
_MARK_SWAY = 8.0  # a nick's line is straight but for so much
_FOLD_SQUARE = 6250.0  # 25 um: one fold at most; it reaches into the next squares only
_FOLD_SWAY = 160.0


@_jit
def draw_marks(
    grey: np.ndarray, y0: int, x0: int, scale: float, z: float, key: Bits, many: float
) -> None:
    """Darken or lighten a window along the lines that nicks of the knife leave.

    Parameters
    ----------
    grey
        `(height, width)` grey levels of the window whose corner is the world pixel
        `y0, x0`, with pixels of `scale` units.
    many
        Marks in 10 um across the cut, 0 to 4. A nick stays on the knife, so its mark
        is in the sections that follow too.
    """
    angle = math.pi * unit(mix(np.uint64(key) ^ np.uint64(0x4A1F)))
    sin, cos = math.sin(angle), math.cos(angle)
    marks = _marks_near(grey.shape, y0, x0, scale, sin, cos, key, many)
    for i in range(grey.shape[0]):
        for j in range(grey.shape[1]):
            y, x = (y0 + i) * scale, (x0 + j) * scale
            across, along = y * cos + x * sin, x * cos - y * sin
            for k in range(len(marks)):
                place, half, strength, wave = marks[k]
                if abs(across - place) > half + _MARK_SWAY + 2.0:
                    continue
                stream = key + np.uint64(900) + np.uint64(wave)
                sway = _MARK_SWAY * smooth_noise(along / 4000.0, 0.5, stream)
                off = abs(across - place - sway)
                edge = min(max(half + 1.0 - off, 0.0) / 2.0, 1.0)
                # a nick wears: its mark comes and goes along the cut and with depth
                wear = 0.7 + 0.6 * drifting_noise(along / 700.0, 0.5, z / 90.0, stream)
                level = grey[i, j] + strength * edge * min(max(wear, 0.0), 1.0)
                grey[i, j] = min(max(level, 0.0), 255.0)


@_jit
def _marks_near(
    shape: tuple[int, int],
    y0: int,
    x0: int,
    scale: float,
    sin: float,
    cos: float,
    key: Bits,
    many: float,
) -> np.ndarray:
    """`(n, 4)`: place across the cut, half width, strength and number of each mark."""
    low, high = np.inf, -np.inf
    for i in (0, shape[0]):
        for j in (0, shape[1]):
            across = (y0 + i) * scale * cos + (x0 + j) * scale * sin
            low, high = min(low, across), max(high, across)
    first = np.int64(np.floor((low - 40.0) / _MARK_PITCH))
    last = np.int64(np.floor((high + 40.0) / _MARK_PITCH))
    marks = np.empty(((last - first + 1) * MOST_MARKS, 4))
    count = 0
    for cell in range(first, last + 1):
        for k in range(MOST_MARKS):
            bits = hash3(cell, k, mix(np.uint64(key) ^ np.uint64(0x3A2C)))
            if unit(bits) >= many / MOST_MARKS:
                continue
            second, third = mix(bits), mix(mix(bits))
            marks[count, 0] = (cell + unit(second)) * _MARK_PITCH
            marks[count, 1] = 1.0 + 4.0 * unit(third) * unit(third)
            fourth = unit(mix(third))
            # Most are scratches, which are light; some are dirt that was dragged along.
            marks[count, 2] = (75.0 if fourth < 0.65 else -80.0) * (0.3 + 0.7 * fourth)
            marks[count, 3] = float(np.uint64(bits) & np.uint64(0xFFFF))
            count += 1
    return marks[:count]


@_jit
def fold_cover(
    shape: tuple[int, int], y0: int, x0: int, scale: float, key: Bits, many: float
) -> np.ndarray:
    """`(height, width)` float32: 1 where a fold lays two layers on each other, else 0.

    Parameters
    ----------
    key
        Of the section: a fold is in one section only.
    many
        Folds in a square of 100 um, 0 to 16.
    """
    cover = np.zeros(shape, np.float32)
    first_row = np.int64(np.floor(y0 * scale / _FOLD_SQUARE)) - 1
    last_row = np.int64(np.floor((y0 + shape[0]) * scale / _FOLD_SQUARE)) + 1
    first_column = np.int64(np.floor(x0 * scale / _FOLD_SQUARE)) - 1
    last_column = np.int64(np.floor((x0 + shape[1]) * scale / _FOLD_SQUARE)) + 1
    for row in range(first_row, last_row + 1):
        for column in range(first_column, last_column + 1):
            bits = hash3(row, column, key)
            if unit(bits) < many / MOST_FOLDS:
                _lay_fold(cover, y0, x0, scale, row, column, mix(bits))
    return cover


@_jit
def _lay_fold(
    cover: np.ndarray, y0: int, x0: int, scale: float, row: int, column: int, bits: Bits
) -> None:
    draws = np.empty(5)
    state = np.uint64(bits)
    for k in range(5):
        state = mix(state)
        draws[k] = unit(state)
    middle_y = (row + draws[0]) * _FOLD_SQUARE
    middle_x = (column + draws[1]) * _FOLD_SQUARE
    sin, cos = math.sin(math.pi * draws[2]), math.cos(math.pi * draws[2])
    length = 1250.0 + 2500.0 * draws[3]  # half of it: 5 to 15 um
    width = 20.0 + 60.0 * draws[4]  # half of it: 80 to 320 nm
    far_y = abs((y0 + 0.5 * cover.shape[0]) * scale - middle_y)
    far_x = abs((x0 + 0.5 * cover.shape[1]) * scale - middle_x)
    reach = length + width + _FOLD_SWAY
    if far_y > reach + 0.5 * cover.shape[0] * scale + 1.0:
        return
    if far_x > reach + 0.5 * cover.shape[1] * scale + 1.0:
        return
    for i in range(cover.shape[0]):
        dy = (y0 + i) * scale - middle_y
        for j in range(cover.shape[1]):
            dx = (x0 + j) * scale - middle_x
            along, across = dx * cos + dy * sin, dy * cos - dx * sin
            if abs(along) >= length or abs(across) > width + _FOLD_SWAY:
                continue
            sway = _FOLD_SWAY * smooth_noise(along / 1500.0, 0.5, state)
            # it runs out towards both ends
            taper = 1.0 - (along / length) ** 2
            inside = width * taper - abs(across - sway)
            cover[i, j] = max(cover[i, j], min(max(inside / 3.0, 0.0), 1.0))


@_jit
def draw_folds(
    grey: np.ndarray,
    cover: np.ndarray,
    y0: int,
    x0: int,
    scale: float,
    key: Bits,
) -> None:
    """Darken a window where two layers lie on each other: what passes both is left."""
    for i in range(grey.shape[0]):
        for j in range(grey.shape[1]):
            if cover[i, j] > 0.0:
                y, x = (y0 + i) * scale, (x0 + j) * scale
                # the second layer is other tissue, crumpled
                second = 0.5 + 0.16 * smooth_noise(y / 11.0, x / 11.0, key)
                second += 0.10 * smooth_noise(y / 60.0, x / 60.0, key + np.uint64(1))
                grey[i, j] *= 1.0 - cover[i, j] * (1.0 - second)


def folds_of(
    shape: tuple[int, int],
    y0: int,
    x0: int,
    *,
    scale: float,
    seed: int,
    section: int,
    many: float,
) -> tuple[NDArray[np.float32], np.uint64]:
    """`fold_cover` of a window of one section, and the key of the second layer."""
    key = np.uint64(hash3(seed, section, 0xF01D))
    cover: NDArray[np.float32] = fold_cover(shape, y0, x0, scale, key, many)
    return cover, key
