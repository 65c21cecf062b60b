"""How dark one point of the procedural tissue is: membranes, organelles, synapses.

Lengths are in units of 4 nm. `depth` is how far inside its cell a point lies.
"""

# mypy: disable-error-code="no-any-return,arg-type"
# numba's types stand for what the compiled functions take, not for what they give

import numba
import numpy as np

from em_platform.imaging.hashed_noise import (
    Bits,
    drifting_noise,
    hash3,
    mix,
    smooth_noise,
    unit,
)
from em_platform.simulation.specimen.cells import (
    AXON,
    BODY,
    BOUTON,
    FIRST_MITOCHONDRION,
    GREY,
    KIND,
    MITOCHONDRIA,
    MYELINATED,
    PER_MITOCHONDRION,
    RADIUS,
    X,
    Y,
)

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
# Asked for every pixel: within their caller a tile takes 0.18 s, else 0.27.
_inlined = numba.njit(nogil=True, cache=True, error_model="numpy", forceinline=True)

_MEMBRANE = 62.0  # grey level of stained lipid: dark, and well above black
NUCLEUS = 0.66
"""Radius of the nucleus, of that of the cell body."""

_FAR = 1e9
_VESICLE_PITCH = 13.0  # 52 nm: vesicles of 40 nm, densely packed

SLOW_FIELDS = ((21.0, 30.0, 40), (74.0, 90.0, 43), (150.0, 200.0, 44))
"""Wave in the section, wave across sections, stream: cytoplasm, sheets, their gate."""


@_jit
def shade(
    cell: np.ndarray,
    other: np.ndarray,
    own_id: Bits,
    other_id: Bits,
    wy: float,
    wx: float,
    margin: float,
    jacobian: tuple[float, float, float, float],
    slow: tuple[float, float, float],
    y: float,
    x: float,
    z: float,
    key: Bits,
) -> float:
    """Grey level of the world point `(y, x, z)` that is at `(wy, wx)` when warped.

    `margin` is how much nearer its cell is than the other one, in the warped space.
    """
    near, depth = depth_in(cell, other, wy, wx, margin, jacobian)
    coarse = slow[0]
    fine = smooth_noise(y / 4.3, x / 4.3, mix(np.uint64(np.int64(z)) ^ key))
    level = cell[GREY] + 7.0 * coarse + 17.0 * fine
    level = _organelles(level, cell, own_id, wy, wx, near, depth, slow, y, x, z, key)
    return _border(level, cell, other, own_id, other_id, wy, wx, depth, coarse)


@_inlined
def depth_in(
    cell: np.ndarray,
    other: np.ndarray,
    wy: float,
    wx: float,
    margin: float,
    jacobian: tuple[float, float, float, float],
) -> tuple[float, float]:
    """How far from the middle of its cell a point lies, and how far inside of it."""
    ay, ax = cell[Y] - wy, cell[X] - wx
    by, bx = other[Y] - wy, other[X] - wx
    near, far = np.sqrt(ay * ay + ax * ax) + 1e-9, np.sqrt(by * by + bx * bx) + 1e-9
    # the gradient of `margin` by the world's y and x makes it a true distance
    gy, gx = ay / near - by / far, ax / near - bx / far
    slope_y = jacobian[0] * gy + jacobian[2] * gx
    slope_x = jacobian[1] * gy + jacobian[3] * gx
    slope = np.sqrt(slope_y * slope_y + slope_x * slope_x)
    # where the warp folds the slope vanishes, and the depth would be endless
    return near, margin / max(slope, 0.3)


@_jit
def _line(distance: float, half_width: float) -> float:
    """1 on a line, 0 beside it, with a soft edge."""
    return min(max(half_width + 0.9 - abs(distance), 0.0) / 1.8, 1.0)


@_jit
def _organelles(
    level: float,
    cell: np.ndarray,
    own_id: Bits,
    wy: float,
    wx: float,
    near: float,
    depth: float,
    slow: tuple[float, float, float],
    y: float,
    x: float,
    z: float,
    key: Bits,
) -> float:
    # In this order: each hides those that follow.
    kind, coarse = cell[KIND], slow[0]
    if kind == MYELINATED and depth < 46.0:
        return _myelin(depth, coarse)
    if kind == BODY:
        inside = NUCLEUS * cell[RADIUS] - near
        if inside > 0.0:
            return _nucleus(level, inside, y, x, z, key)
    # 8 units: they keep 32 nm away from the membrane.
    found = mitochondria(cell, wy, wx, depth - 8.0)
    if found[0] > 0.0:
        return _mitochondrion(found[0], found[1], coarse)
    outside = -found[0]
    if kind == BOUTON and outside > 7.0 and depth > 11.0:
        return _vesicle(level, y, x, z, own_id)
    if kind != AXON and outside > 5.0 and depth > 12.0:
        level = _reticulum(level, slow[1], slow[2])
    if kind != BOUTON and depth > 7.0:
        level = _granules(level, y, x, z, key, 0.42 if kind == BODY else 0.2)
    return level


@_jit
def _myelin(depth: float, coarse: float) -> float:
    """Lamellae, dark and light, around the axon; then the axon's own membrane."""
    thickness = sheath(coarse)
    if depth > thickness:
        return 178.0 - 110.0 * _line(depth - thickness - 2.0, 1.6)
    phase = depth / 4.6 - np.floor(depth / 4.6)
    return 62.0 + 34.0 * abs(2.0 * phase - 1.0)


@_jit
def sheath(coarse: float) -> float:
    """Thickness of the myelin."""
    return 36.0 + 5.0 * coarse


@_jit
def _nucleus(
    level: float, inside: float, y: float, x: float, z: float, key: Bits
) -> float:
    """Two membranes, dark chromatin below them and in clumps, a light ground."""
    clump = drifting_noise(y / 46.0, x / 46.0, z / 60.0, key + np.uint64(41))
    clump += 0.5 * drifting_noise(y / 19.0, x / 19.0, z / 30.0, key + np.uint64(42))
    rim = max(1.0 - inside / 34.0, 0.0)
    dark = min(max((clump + 1.1 * rim - 0.34) * 3.0, 0.0), 1.0)
    ground = level - 4.0 - 46.0 * dark
    lines = max(_line(inside - 2.0, 1.6), _line(inside - 10.0, 1.5))
    gap = _line(inside - 6.0, 1.6)
    return ground + gap * (level + 12.0 - ground) + lines * (_MEMBRANE + 10.0 - ground)


@_jit
def mitochondria(
    cell: np.ndarray, wy: float, wx: float, room: float
) -> tuple[float, float]:
    """How deep the point lies in one (negative: outside), and its place along it."""
    depth, along = -1e9, 0.0
    for k in range(int(cell[MITOCHONDRIA])):
        at = FIRST_MITOCHONDRION + k * PER_MITOCHONDRION
        dy, dx = wy - cell[at], wx - cell[at + 1]
        u = dx * cell[at + 4] + dy * cell[at + 5]
        v = dy * cell[at + 4] - dx * cell[at + 5]
        # a capsule: the distance to the middle line, less the half thickness
        half = cell[at + 2] - cell[at + 3]
        over = max(abs(u) - half, 0.0)
        inside = min(cell[at + 3] - np.sqrt(over * over + v * v), room)
        if inside > depth:
            depth, along = inside, u + 0.25 * v
    return depth, along


@_jit
def _mitochondrion(inside: float, along: float, coarse: float) -> float:
    matrix = 116.0 + 8.0 * coarse
    wave = (along + 5.0 * coarse) / 10.5
    phase = abs(wave - np.floor(wave) - 0.5) * 10.5
    if inside > 5.5:
        # cristae reach from one wall nearly to the other
        matrix -= 48.0 * _line(phase, 0.9)
        matrix += 22.0 * _line(phase - 2.6, 0.8)
    shell = max(_line(inside - 1.4, 1.0), _line(inside - 5.4, 0.9))
    gap = _line(inside - 3.4, 0.7)
    level = matrix + gap * 20.0
    return level + shell * (_MEMBRANE - level)


@_jit
def _vesicle(level: float, y: float, x: float, z: float, own_id: Bits) -> float:
    radius = vesicle_radius(y, x, z, own_id)
    if radius > 8.0:
        return level
    ring = _line(radius - 3.9, 0.7)
    core = max(1.0 - radius / 4.0, 0.0)
    return level + 16.0 * min(core, 1.0) - ring * 78.0


@_inlined
def vesicle_radius(y: float, x: float, z: float, own_id: Bits) -> float:
    """Distance to the middle of a vesicle; far where there is none.

    Vesicles are rings of 40 nm, one in most lattice places where the cloud is dense.
    """
    cloud = drifting_noise(y / 66.0, x / 66.0, z / 60.0, own_id)
    if cloud < -0.12:
        return _FAR
    # A hexagonal lattice: rows lie nearer (sqrt(3) / 2), every other is shifted.
    row = np.floor(y / (0.88 * _VESICLE_PITCH))
    shifted = x + 0.5 * _VESICLE_PITCH * (row - 2.0 * np.floor(row / 2.0))
    column = np.floor(shifted / _VESICLE_PITCH)
    # 10 units are a section: so small a thing does not go on into the next.
    layer = np.uint64(np.int64(np.floor(z / 10.0)))
    bits = hash3(np.int64(row), np.int64(column), mix(layer ^ np.uint64(own_id)))
    # some places stay empty: a full lattice would show
    if unit(bits) > 0.86:
        return _FAR
    second, third = mix(bits), mix(mix(bits))
    cy = (row + 0.5) * 0.88 * _VESICLE_PITCH + 2.2 * (unit(second) - 0.5)
    cx = (column + 0.5) * _VESICLE_PITCH + 3.0 * (unit(third) - 0.5)
    dy, dx = y - cy, shifted - cx
    return np.sqrt(dy * dy + dx * dx)


@_jit
def _reticulum(level: float, field: float, gate: float) -> float:
    """Flat cisternae: pairs of thin lines along the contours of a smooth field."""
    off = abs(field) * 52.0
    if gate < 0.05 or off > 8.0:
        return level
    return level - 74.0 * _line(off - 4.4, 0.8) + 8.0 * _line(off, 2.0)


@_jit
def _granules(
    level: float, y: float, x: float, z: float, key: Bits, share: float
) -> float:
    """Ribosomes and cut microtubules: dark dots of 20 nm."""
    row, column = np.floor(y / 9.0), np.floor(x / 9.0)
    layer = np.uint64(np.int64(np.floor(z / 10.0)))
    bits = hash3(np.int64(row), np.int64(column), mix(layer + np.uint64(key)))
    if unit(bits) > share:
        return level
    second, third = mix(bits), mix(mix(bits))
    dy = y - (row + 0.5) * 9.0 - 5.0 * (unit(second) - 0.5)
    dx = x - (column + 0.5) * 9.0 - 5.0 * (unit(third) - 0.5)
    return level - 48.0 * min(max(3.0 - np.sqrt(dy * dy + dx * dx), 0.0) / 1.6, 1.0)


@_jit
def _border(
    level: float,
    cell: np.ndarray,
    other: np.ndarray,
    own_id: Bits,
    other_id: Bits,
    wy: float,
    wx: float,
    depth: float,
    coarse: float,
) -> float:
    """The membrane, its slant, and the density of a synapse where there is one."""
    # Symmetric: both cells draw the same for the border between them.
    pair = mix(np.uint64(own_id) ^ np.uint64(other_id))
    # some borders run slanted through the section: wide and grey
    slant = max(unit(pair) - 0.72, 0.0) / 0.28
    slant *= 0.5 + 0.5 * coarse
    blur = min(max(1.0 - depth / (3.0 + 16.0 * slant), 0.0), 1.0)
    level -= 62.0 * slant * blur
    level -= 82.0 * density(cell, other, own_id, other_id, wy, wx, depth, mix(pair))
    wall = _line(depth - 1.9, 1.5)
    cleft = 16.0 * _line(depth, 0.4)
    return level + wall * (_MEMBRANE + cleft + 24.0 * slant - level)


@_inlined
def density(
    cell: np.ndarray,
    other: np.ndarray,
    own_id: Bits,
    other_id: Bits,
    wy: float,
    wx: float,
    depth: float,
    bits: Bits,
) -> float:
    """The dense matter at a synapse, 0 to 1."""
    makes = cell[KIND] == BOUTON
    takes = other[KIND] == BOUTON
    # A synapse has a bouton on one side only.
    if makes == takes or depth > 14.0 or unit(bits) > 0.6:
        return 0.0
    if cell[KIND] == MYELINATED or other[KIND] == MYELINATED:
        return 0.0
    ny, nx = other[Y] - cell[Y], other[X] - cell[X]
    length = np.sqrt(ny * ny + nx * nx) + 1e-9
    my, mx = 0.5 * (other[Y] + cell[Y]), 0.5 * (other[X] + cell[X])
    along = ((wx - mx) * ny - (wy - my) * nx) / length
    # Seen from the other cell the direction is reversed.
    along = along if own_id < other_id else -along
    half = 22.0 + 26.0 * unit(mix(bits))
    middle = 30.0 * (unit(mix(mix(bits))) - 0.5)
    extent = min(max((half - abs(along - middle)) / 5.0, 0.0), 1.0)
    # The density of the receiving side is the thick one.
    thick = 4.0 if makes else 11.0
    return extent * min(max((thick - depth) / 4.0, 0.0), 1.0)
