"""Procedural serial-section tissue: any window of any section, alone, from a seed.

Cells are an additively weighted Voronoi diagram (Worley 1996) of hashed seeds in a
warped space, so borders are curved; what lies in a cell follows from its own hash.
"""

from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from em_platform.imaging.hashed_noise import Bits, drifting_noise, grain_noise, hash3
from em_platform.simulation.specimen.cells import RADIUS, X, Y, cells_near, warp
from em_platform.simulation.specimen.classes import FOLD, class_of
from em_platform.simulation.specimen.cutting import draw_folds, draw_marks, folds_of
from em_platform.simulation.specimen.shade import SLOW_FIELDS, shade

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
# Asked for every pixel: within their caller a tile takes 0.18 s, else 0.27.
_inlined = numba.njit(nogil=True, cache=True, error_model="numpy", forceinline=True)

SECTION_NM = 40.0
"""Thickness of a section."""

_UNIT_NM = 4.0  # lengths of the model are in units of 4 nm
# Candidates are narrowed twice, so that a pixel compares few cells and not all.
_REGION, _BLOCK = 256, 32
_LATTICE = 4  # the warp is evaluated at each fourth world pixel, linear in between
_PANEL = 1024  # pixels a side: longer lists of cells cost more than the seams
_GRAIN = 34.0  # standard deviation of the resin's grain, before it is smoothed


def tissue(
    y0: int,
    x0: int,
    *,
    height: int,
    width: int,
    section: int = 0,
    seed: int = 0,
    pixel_nm: float = 4.0,
    knife_marks: float = 0.0,
    folds: float = 0.0,
) -> NDArray[np.float32]:
    """Grey levels of one window of one section, as brains look: dark membranes.

    A world pixel has the same value, bit for bit, in every window that holds it.

    Parameters
    ----------
    y0, x0
        World pixel of the window's top-left corner; may be negative.
    section
        Number of the section, 40 nm each; neighbouring sections look alike.
    knife_marks
        Marks of the knife in 10 um; they go on from section to section.
    folds
        Folds in a square of 100 um, other ones in each section.

    Returns
    -------
    ndarray
        `(height, width)` float32 in 0..255, mean near 150. Band-limited: smoothed with
        (1, 2, 1)/4 along both axes, so that it can be resampled between pixels.
    """
    raw = np.empty((height + 2, width + 2), np.float32)  # a border to smooth over
    key = np.uint64(hash3(seed, 0, 0x7155))
    # By section: grain is new in each, cells go on (`key`).
    grain = np.uint64(hash3(seed, section, 0x6A11))
    z = section * SECTION_NM / _UNIT_NM
    for top, bottom in _panels(height + 2):
        for left, right in _panels(width + 2):
            _paint(
                raw, (top, left, bottom, right), y0 - 1, x0 - 1, z, key, grain,
                pixel_nm / _UNIT_NM,
            )  # fmt: skip
    scale = pixel_nm / _UNIT_NM
    if knife_marks:
        draw_marks(raw, y0 - 1, x0 - 1, scale, z, key, float(knife_marks))
    if folds:
        cover, fold_key = folds_of(
            raw.shape, y0 - 1, x0 - 1,
            scale=scale, seed=seed, section=section, many=float(folds),
        )  # fmt: skip
        draw_folds(raw, cover, y0 - 1, x0 - 1, scale, fold_key)
    out = np.empty((height, width), np.float32)
    _smooth(raw, out)
    return out


def tissue_labels(
    y0: int,
    x0: int,
    *,
    height: int,
    width: int,
    section: int = 0,
    seed: int = 0,
    pixel_nm: float = 4.0,
    folds: float = 0.0,
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """What each world pixel of a window of `tissue` belongs to.

    Returns
    -------
    cells
        `(height, width)` uint32: the same number for the same cell in all windows and
        sections; 0 below a fold.
    classes
        `(height, width)` uint8: places in `classes.CLASSES`.
    """
    cells = np.empty((height, width), np.uint32)
    classes = np.empty((height, width), np.uint8)
    key = np.uint64(hash3(seed, 0, 0x7155))
    scale = pixel_nm / _UNIT_NM
    z = section * SECTION_NM / _UNIT_NM
    for top, bottom in _panels(height):
        for left, right in _panels(width):
            panel = (top, left, bottom, right)
            _label(cells, classes, panel, y0, x0, z, key, scale)
    if folds:
        cover, _ = folds_of(
            cells.shape, y0, x0,
            scale=scale, seed=seed, section=section, many=float(folds),
        )  # fmt: skip
        cells[cover > 0.5], classes[cover > 0.5] = 0, FOLD
    return cells, classes


def _panels(length: int) -> list[tuple[int, int]]:
    """Equal parts of a length, near 1024 each, so that lists of cells stay short."""
    edges = np.linspace(0, length, max(1, round(length / _PANEL)) + 1).astype(int)
    return [(int(a), int(b)) for a, b in pairwise(edges)]


@_jit
def _warp_lattice(
    y0: int, x0: int, rows: int, columns: int, z: float, key: Bits, scale: float
) -> np.ndarray:
    """`(rows, columns, 5)`: the warp and slow fields at multiples of 4 world pixels."""
    lattice = np.empty((rows, columns, 5))
    for i in range(rows):
        for j in range(columns):
            y = (y0 + i * _LATTICE) * scale
            x = (x0 + j * _LATTICE) * scale
            lattice[i, j, 0], lattice[i, j, 1] = warp(y, x, z, key)
            for k in range(3):
                wave, drift, stream = SLOW_FIELDS[k]
                lattice[i, j, 2 + k] = drifting_noise(
                    y / wave, x / wave, z / drift, key + np.uint64(stream)
                )
    return lattice


_Located = tuple[
    int, int, float, float, float, tuple[float, float, float, float],
    tuple[float, float, float],
]  # fmt: skip


class _Scene(NamedTuple):
    """What all pixels of one panel are computed from."""

    cells: np.ndarray
    ids: np.ndarray
    lattice: np.ndarray
    anchor_y: int
    anchor_x: int
    z: float
    key: Bits
    grain: Bits
    scale: float


@_jit
def _scene(
    panel: tuple[int, int, int, int],
    y0: int,
    x0: int,
    z: float,
    key: Bits,
    grain: Bits,
    scale: float,
) -> _Scene:
    # On multiples in the world: all windows interpolate between the same nodes.
    anchor_y = ((y0 + panel[0]) // _LATTICE) * _LATTICE
    anchor_x = ((x0 + panel[1]) // _LATTICE) * _LATTICE
    rows = (y0 + panel[2] - anchor_y) // _LATTICE + 2
    columns = (x0 + panel[3] - anchor_x) // _LATTICE + 2
    lattice = _warp_lattice(anchor_y, anchor_x, rows, columns, z, key, scale)
    box = (
        lattice[:, :, 0].min(), lattice[:, :, 1].min(),
        lattice[:, :, 0].max(), lattice[:, :, 1].max(),
    )  # fmt: skip
    cells, ids = cells_near(box, z, key)
    return _Scene(cells, ids, lattice, anchor_y, anchor_x, z, key, grain, scale)


@_jit
def _paint(
    grey: np.ndarray,
    panel: tuple[int, int, int, int],
    y0: int,
    x0: int,
    z: float,
    key: Bits,
    grain: Bits,
    scale: float,
) -> None:
    """Fill a panel (top, left, bottom, right) of the window with corner `y0, x0`."""
    scene = _scene(panel, y0, x0, z, key, grain, scale)
    everywhere = np.arange(len(scene.cells))
    for top in range(panel[0], panel[2], _REGION):
        for left in range(panel[1], panel[3], _REGION):
            bottom = min(top + _REGION, panel[2])
            right = min(left + _REGION, panel[3])
            region = (y0 + top, x0 + left, y0 + bottom, x0 + right)
            around = _candidates(scene, region, everywhere)
            for y in range(top, bottom, _BLOCK):
                for x in range(left, right, _BLOCK):
                    block = (y, x, min(y + _BLOCK, bottom), min(x + _BLOCK, right))
                    _paint_block(grey, scene, block, y0, x0, around)


@_jit
def _label(
    cells: np.ndarray,
    classes: np.ndarray,
    panel: tuple[int, int, int, int],
    y0: int,
    x0: int,
    z: float,
    key: Bits,
    scale: float,
) -> None:
    """As `_paint`, what is there instead of how dark it is."""
    scene = _scene(panel, y0, x0, z, key, key, scale)  # grain is not seen
    everywhere = np.arange(len(scene.cells))
    for top in range(panel[0], panel[2], _BLOCK):
        for left in range(panel[1], panel[3], _BLOCK):
            bottom, right = min(top + _BLOCK, panel[2]), min(left + _BLOCK, panel[3])
            region = (y0 + top, x0 + left, y0 + bottom, x0 + right)
            near = _candidates(scene, region, everywhere)
            for i in range(top, bottom):
                for j in range(left, right):
                    y, x = y0 + i, x0 + j
                    at = _nearest(scene, near, y, x)
                    own = scene.ids[at[0]]
                    # 0 means none; 32 of 64 bits: two of a thousand cells meet never
                    cells[i, j] = max((own >> np.uint64(32)), np.uint64(1))
                    classes[i, j] = class_of(
                        scene.cells[at[0]], scene.cells[at[1]], own, scene.ids[at[1]],
                        at[3], at[4], at[2], at[5], at[6], y * scale, x * scale, z,
                    )  # fmt: skip


@_jit
def _paint_block(
    grey: np.ndarray,
    scene: _Scene,
    block: tuple[int, int, int, int],
    y0: int,
    x0: int,
    around: np.ndarray,
) -> None:
    """Fill a small block, of which `around` lists the cells that can be nearest."""
    top, left, bottom, right = block
    region = (y0 + top, x0 + left, y0 + bottom, x0 + right)
    near = _candidates(scene, region, around)
    for y in range(top, bottom):
        for x in range(left, right):
            grey[y, x] = _pixel(scene, near, y0 + y, x0 + x)


@_jit
def _candidates(
    scene: _Scene, region: tuple[int, int, int, int], among: np.ndarray
) -> np.ndarray:
    """Cells that can be among the two nearest of any pixel of the region.

    A point at most `reach` from the middle has its two nearest within the middle's
    second smallest distance plus twice `reach`.
    """
    top, left = region[0] - scene.anchor_y, region[1] - scene.anchor_x
    bottom, right = region[2] - scene.anchor_y, region[3] - scene.anchor_x
    window = scene.lattice[
        top // _LATTICE : bottom // _LATTICE + 2,
        left // _LATTICE : right // _LATTICE + 2,
    ]
    y_low, y_high = window[:, :, 0].min(), window[:, :, 0].max()
    x_low, x_high = window[:, :, 1].min(), window[:, :, 1].max()
    y, x = 0.5 * (y_low + y_high), 0.5 * (x_low + x_high)
    reach = np.hypot(y_high - y, x_high - x)
    far = np.empty(len(among))
    least = following = np.inf
    for k in range(len(among)):
        cell = scene.cells[among[k]]
        far[k] = np.hypot(cell[Y] - y, cell[X] - x) - cell[RADIUS]
        if far[k] < least:
            least, following = far[k], least
        elif far[k] < following:
            following = far[k]
    # 1e-6: rounding must not lose a cell that is just as near.
    found: np.ndarray = among[far <= following + 2.0 * reach + 1e-6]
    return found


@_jit
def _pixel(scene: _Scene, near: np.ndarray, y: int, x: int) -> float:
    """Grey level of one world pixel."""
    first, second, margin, wy, wx, jacobian, slow = _nearest(scene, near, y, x)
    level = shade(
        scene.cells[first], scene.cells[second], scene.ids[first], scene.ids[second],
        wy, wx, margin, jacobian, slow, y * scene.scale, x * scene.scale,
        scene.z, scene.key,
    )  # fmt: skip
    level += _GRAIN * grain_noise(y, x, scene.grain)
    return float(min(max(level, 0.0), 255.0))


@_inlined
def _nearest(scene: _Scene, near: np.ndarray, y: int, x: int) -> _Located:
    """The two nearest cells, how much nearer the first is, and where the pixel lies.

    That is: its place in the warped space, that space's slope, and the slow fields.
    """
    i, j = (y - scene.anchor_y) // _LATTICE, (x - scene.anchor_x) // _LATTICE
    fy = (y - scene.anchor_y - i * _LATTICE) / _LATTICE
    fx = (x - scene.anchor_x - j * _LATTICE) / _LATTICE
    a, b = scene.lattice[i, j], scene.lattice[i, j + 1]
    c, d = scene.lattice[i + 1, j], scene.lattice[i + 1, j + 1]
    wy, wx = _between(a, b, c, d, fy, fx, 0), _between(a, b, c, d, fy, fx, 1)
    # The gate (a[4]) changes over 150 units: one node of four will do.
    slow = (_between(a, b, c, d, fy, fx, 2), _between(a, b, c, d, fy, fx, 3), a[4])
    step = _LATTICE * scene.scale
    jacobian = (
        ((c[0] - a[0]) * (1 - fx) + (d[0] - b[0]) * fx) / step,
        ((b[0] - a[0]) * (1 - fy) + (d[0] - c[0]) * fy) / step,
        ((c[1] - a[1]) * (1 - fx) + (d[1] - b[1]) * fx) / step,
        ((b[1] - a[1]) * (1 - fy) + (d[1] - c[1]) * fy) / step,
    )
    first, second, margin = _two_nearest(scene.cells, near, wy, wx)
    return first, second, margin, wy, wx, jacobian, slow


@_jit
def _between(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    d: np.ndarray,
    fy: float,
    fx: float,
    k: int,
) -> float:
    """Field `k` between four points of the lattice, bilinear."""
    top, bottom = a[k] * (1 - fx) + b[k] * fx, c[k] * (1 - fx) + d[k] * fx
    return float(top * (1 - fy) + bottom * fy)


@_jit
def _two_nearest(
    cells: np.ndarray, near: np.ndarray, wy: float, wx: float
) -> tuple[int, int, float]:
    """The nearest cell, the next, and how much farther that is."""
    first = second = -1
    least = following = np.inf
    for k in range(len(near)):
        dy, dx = cells[near[k], Y] - wy, cells[near[k], X] - wx
        far = np.sqrt(dy * dy + dx * dx) - cells[near[k], RADIUS]
        if far < least:
            second, following = first, least
            first, least = near[k], far
        elif far < following:
            second, following = near[k], far
    return first, second, following - least


@_jit
def _smooth(raw: np.ndarray, out: np.ndarray) -> None:
    height, width = out.shape
    for i in range(height):
        for j in range(width):
            # (1, 2, 1) / 4 along both axes is 0 at the highest frequency.
            top = raw[i, j] + raw[i, j + 2] + 2.0 * raw[i, j + 1]
            middle = raw[i + 1, j] + raw[i + 1, j + 2] + 2.0 * raw[i + 1, j + 1]
            bottom = raw[i + 2, j] + raw[i + 2, j + 2] + 2.0 * raw[i + 2, j + 1]
            out[i, j] = (top + bottom + 2.0 * middle) / 16.0
