"""The cells of the procedural tissue: where each lies, how large, what it holds.

A hashed quadtree of world squares gives cell bodies, dendrites and thin axons side by
side. Lengths here are in units of 4 nm (one pixel at 4 nm), `y` down, `x` right.
"""

import math

import numba
import numpy as np

from em_platform.imaging.hashed_noise import Bits, drifting_noise, hash3, mix, unit

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

SQUARE = 768
"""Side of the largest squares; a cell body fills one."""

AXON, DENDRITE, BOUTON, MYELINATED, BODY = range(5)

Y, X, RADIUS, KIND, GREY, MITOCHONDRIA = range(6)
FIRST_MITOCHONDRION = 6
PER_MITOCHONDRION = 6
COLUMNS = FIRST_MITOCHONDRION + 3 * PER_MITOCHONDRION
"""Columns of a table of cells; a mitochondrion has y, x, two half axes, cos, sin."""


@_jit
def warp(y: float, x: float, z: float, key: Bits) -> tuple[float, float]:
    """Where a world point lies in the space in which cells are round."""
    k = np.uint64(key)
    u, v = y / 430.0, x / 430.0
    wy = y + 150.0 * drifting_noise(u, v, z / 900.0, k)
    wx = x + 150.0 * drifting_noise(u, v, z / 900.0, k + np.uint64(1))
    # each octave's lattice is turned, so that no direction shows
    u, v = (0.80 * y + 0.60 * x) / 170.0, (0.80 * x - 0.60 * y) / 170.0
    wy += 66.0 * drifting_noise(u, v, z / 400.0, k + np.uint64(2))
    wx += 66.0 * drifting_noise(u, v, z / 400.0, k + np.uint64(3))
    u, v = (0.92 * y - 0.39 * x) / 61.0, (0.92 * x + 0.39 * y) / 61.0
    wy += 16.0 * drifting_noise(u, v, z / 160.0, k + np.uint64(4))
    wx += 16.0 * drifting_noise(u, v, z / 160.0, k + np.uint64(5))
    # Turned by 30 degrees: the squares of cells do not lie along the image.
    return 0.87 * wy + 0.50 * wx, 0.87 * wx - 0.50 * wy


@_jit
def cells_near(
    box: tuple[float, float, float, float], z: float, key: Bits
) -> tuple[np.ndarray, np.ndarray]:
    """All cells that can be among the two nearest of a point of `box` (y0, x0, y1, x1).

    The two nearest lie at most two squares away, and a heavier cell at most half a
    square farther; three squares around the box hold them all.
    """
    first_row = np.int64(np.floor(box[0] / SQUARE)) - 3
    last_row = np.int64(np.floor(box[2] / SQUARE)) + 3
    first_column = np.int64(np.floor(box[1] / SQUARE)) - 3
    last_column = np.int64(np.floor(box[3] / SQUARE)) + 3
    # 144: nine parts of up to 16 cells each.
    most = (last_row - first_row + 1) * (last_column - first_column + 1) * 144
    cells = np.empty((most, COLUMNS))
    ids = np.empty(most, np.uint64)
    count = 0
    for row in range(first_row, last_row + 1):
        for column in range(first_column, last_column + 1):
            count = _fill_square(cells, ids, count, row, column, z, key)
    return cells[:count], ids[:count]


@_jit
def _fill_square(
    cells: np.ndarray,
    ids: np.ndarray,
    count: int,
    row: int,
    column: int,
    z: float,
    key: Bits,
) -> int:
    bits = hash3(row, column, key)
    y, x = row * float(SQUARE), column * float(SQUARE)
    # of the squares a cell body fills: few, as in neuropil
    if unit(bits) < 0.05:
        _put(cells, ids, count, y, x, float(SQUARE), z, mix(bits))
        return count + 1
    side = SQUARE / 3.0
    for i in range(3):
        for j in range(3):
            # Another key: part (0, 0) must not follow square (0, 0).
            part = hash3(row * 3 + i, column * 3 + j, mix(np.uint64(key)))
            choice = unit(part)
            # shares of thick dendrites, thin ones, and bundles of axons
            split = 1 if choice < 0.16 else (2 if choice < 0.55 else 4)
            count = _fill_part(
                cells, ids, count, y + i * side, x + j * side, side, split, z, part
            )
    return count


@_jit
def _fill_part(
    cells: np.ndarray,
    ids: np.ndarray,
    count: int,
    y: float,
    x: float,
    side: float,
    split: int,
    z: float,
    bits: Bits,
) -> int:
    step = side / split
    for i in range(split):
        for j in range(split):
            own = mix(np.uint64(bits) + np.uint64(1 + i * 4 + j))
            _put(cells, ids, count, y + i * step, x + j * step, step, z, own)
            count += 1
    return count


@_jit
def _put(
    cells: np.ndarray,
    ids: np.ndarray,
    at: int,
    y: float,
    x: float,
    side: float,
    z: float,
    bits: Bits,
) -> None:
    """Write one cell of the square of `side` at `(y, x)`; it sways along z."""
    draws = np.empty(8)
    state = np.uint64(bits)
    for k in range(8):
        state = mix(state)
        draws[k] = unit(state)
    cell = cells[at]
    sway = 0.14 * side * math.sin(2.0 * math.pi * (z / (500.0 + 900.0 * draws[2])))
    turn = 2.0 * math.pi * draws[3]
    cell[Y] = y + side * (0.5 + 0.84 * (draws[0] - 0.5)) + sway * math.sin(turn)
    cell[X] = x + side * (0.5 + 0.84 * (draws[1] - 0.5)) + sway * math.cos(turn)
    cell[RADIUS] = side * (0.38 + 0.20 * draws[4])
    cell[KIND] = _kind(side, draws[5])
    cell[GREY] = 172.0 + 26.0 * (draws[6] - 0.5) - (6.0 if cell[KIND] == BOUTON else 0)
    ids[at] = bits
    _put_mitochondria(cell, side, z, state)


@_jit
def _kind(side: float, draw: float) -> int:
    # Sides are 768, 256, 128 and 64: the limits lie between them.
    if side > 400.0:
        return BODY
    if side > 200.0:
        return DENDRITE if draw < 0.8 else BOUTON
    if side > 100.0:
        if draw < 0.07:
            return MYELINATED
        return BOUTON if draw < 0.45 else DENDRITE
    return BOUTON if draw < 0.12 else AXON


@_jit
def _put_mitochondria(cell: np.ndarray, side: float, z: float, bits: Bits) -> None:
    """Each cell holds none to three, on a ring about its middle, worms along z."""
    state = np.uint64(bits)
    most = 3 if side > 200.0 else (2 if side > 100.0 else 1)
    chance = 0.75 if side > 200.0 else (0.42 if side > 100.0 else 0.10)
    count = 0
    for k in range(most):
        state = mix(state)
        keep = unit(state) < chance
        state = mix(state)
        angle = 2.0 * math.pi * ((k + 0.7 * unit(state)) / most)
        state = mix(state)
        lean = math.pi * unit(state) + z / 900.0
        state = mix(state)
        thick = (18.0 + 15.0 * unit(state)) if side > 100.0 else 17.0
        state = mix(state)
        # A product of two draws: most are short.
        long = thick * (1.0 + 1.6 * unit(state) * unit(state))
        far = 0.36 * side if side > 400.0 else (0.20 * side if most > 1 else 0.0)
        # After all draws: one that is left out does not change the next.
        if not keep:
            continue
        at = FIRST_MITOCHONDRION + count * PER_MITOCHONDRION
        cell[at] = cell[Y] + far * math.sin(angle)
        cell[at + 1] = cell[X] + far * math.cos(angle)
        cell[at + 2] = long
        cell[at + 3] = thick
        cell[at + 4] = math.cos(lean)
        cell[at + 5] = math.sin(lean)
        count += 1
    cell[MITOCHONDRIA] = count
