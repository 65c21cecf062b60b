"""Rows and columns of tiles, and their overlap where the input has none."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats import read_image
from em_platform.imaging.valid import valid_region
from em_platform.model import Size
from em_platform.storage.layout import StorageOptions

log = logging.getLogger(__name__)

Float = NDArray[np.float32]
Grid = Mapping[tuple[int, int], str]

_SMALL_PX = 320  # longer side at which tiles are compared
# Enough for most to agree where one of them shows resin or a vessel.
_PAIRS = 6
_LEAST, _MOST, _ASIDE = 0.03, 0.7, 0.12  # overlap and shift aside, parts of a tile
# Of the robust spread of all places: noise alone does not rise so far above it.
_SIGNIFICANT = 8.0
# Parts of a tile: pairs that differ more do not say the same.
_AGREE = 0.04
# Where nothing can be measured; the log says that it was assumed.
_DEFAULT = 0.1
# Steps of the grid: half way to the next tile a neighbour is no neighbour any more.
_REACH = 0.5


def rows_and_columns(
    y_px: NDArray[np.float64], x_px: NDArray[np.float64], *, size: Size
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Grid indices, from 0, of tiles that lie roughly on a grid.

    Each tile counts on from a neighbour, so that a grid that leans or drifts over many
    tiles, and jitter up to a quarter of a tile, do no harm. Tiles without a neighbour
    are put on the grid that fits all others best.

    Parameters
    ----------
    y_px, x_px
        `(n,)` corners of the tiles.

    Returns
    -------
    tuple
        Rows and columns, `(n,)` each.
    """
    across, down = _steps(y_px, x_px, size)
    places = np.stack([y_px / down, x_px / across], axis=1)
    index = _count_on(places)
    known = index[:, 0] > np.iinfo(np.int64).min
    lattice = _fit(places[known], index[known])
    flat = np.concatenate([places[~known], np.ones((int((~known).sum()), 1))], axis=1)
    index[~known] = np.rint(flat @ lattice).astype(np.int64)
    index -= index.min(axis=0)
    return index[:, 0], index[:, 1]


def _steps(
    y_px: NDArray[np.float64], x_px: NDArray[np.float64], size: Size
) -> tuple[float, float]:
    """Typical distance of a tile to the next one, to the right and down."""
    from scipy.spatial import cKDTree

    height, width = size.height_px, size.width_px
    scaled = np.stack([y_px / height, x_px / width], axis=1)
    pairs = cKDTree(scaled).query_pairs(2.0, output_type="ndarray")
    apart = np.abs(scaled[pairs[:, 0]] - scaled[pairs[:, 1]])
    steps = []
    for axis, length in ((1, width), (0, height)):
        along, side = apart[:, axis], apart[:, 1 - axis]
        # Up to 19 degrees aside: a grid may lean.
        near = (along > 0.2) & (side < 0.35 * along)
        nearest = along[near].min() if near.any() else 1.0
        same = near & (along < 1.5 * nearest)
        steps.append(float(np.median(along[same]) if same.any() else 1.0) * length)
    return steps[0], steps[1]


def _count_on(places: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices by walking from neighbour to neighbour from the most central group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components
    from scipy.spatial import cKDTree

    count = len(places)
    pairs = cKDTree(places).query_pairs(1.0 + _REACH, output_type="ndarray")
    step = places[pairs[:, 1]] - places[pairs[:, 0]]
    whole = np.rint(step)
    is_next = (np.abs(whole).sum(axis=1) == 1) & (
        np.abs(step - whole).max(axis=1) < _REACH * 0.9
    )
    one, other = pairs[is_next].T
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(count, count)).tocsr()
    _, labels = connected_components(graph, directed=False)
    # Numbers are counted within one group; others are fitted to its grid.
    largest = np.bincount(labels).argmax()
    start = int(np.flatnonzero(labels == largest)[0])
    order, before = breadth_first_order(graph, start, directed=False)
    index = np.full((count, 2), np.iinfo(np.int64).min)
    index[start] = 0
    for tile in order[1:]:
        came_from = before[tile]
        moved = np.rint(places[tile] - places[came_from]).astype(np.int64)
        index[tile] = index[came_from] + moved
    return index


def _fit(places: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """`(3, 2)` map from a place to an index; no turn where too few tiles are known."""
    if len(places) < 3 or (np.ptp(index, axis=0) == 0).any():
        straight = np.eye(3, 2)
        straight[2] = (index - places).mean(axis=0)
        return straight
    flat = np.concatenate([places, np.ones((len(places), 1))], axis=1)
    found: NDArray[np.float64] = np.linalg.lstsq(flat, index, rcond=None)[0]
    return found


def estimate_pitch(
    grid: Grid, *, size: Size, options: StorageOptions
) -> tuple[float, float]:
    """Distance in pixels from a tile to the next one: down, and to the right.

    A few pairs are compared at low resolution by masked normalised cross-correlation
    (Padfield 2012, doi.org/10.1109/TIP.2011.2181402); most must agree. A direction
    that stays open takes the other's overlap, and 10 % where both do.

    Parameters
    ----------
    grid
        (row, column) -> file.
    """
    down = _part(grid, (1, 0), options=options)
    across = _part(grid, (0, 1), options=options)
    known = [part for part in (down, across) if part is not None]
    if not known:
        log.warning(
            "overlap: not measurable from the pixels, %d %% is assumed; give --overlap",
            100 * _DEFAULT,
        )
    other = known[0] if known else 1 - _DEFAULT
    return (
        (other if down is None else down) * size.height_px,
        (other if across is None else across) * size.width_px,
    )


def _part(
    grid: Grid, step: tuple[int, int], *, options: StorageOptions
) -> float | None:
    """Typical distance to the next tile of a direction, in parts of a tile."""
    found = []
    for one, other in _pairs(grid, step):
        try:
            a, b = (_reduced(read_image(uri, options=options)) for uri in (one, other))
        # The header was read; broken pixels are named by `measure_tiles`.
        except FormatError:
            continue
        if a.shape == b.shape and a.std() > 0 and b.std() > 0:
            part = _measure(a, b, axis=step.index(1))
            found += [part] if part is not None else []
    if not found:
        return None
    middle = float(np.median(found))
    agreeing = sum(abs(part - middle) < _AGREE for part in found)
    return middle if 2 * agreeing > len(found) else None


def _pairs(grid: Grid, step: tuple[int, int]) -> Sequence[tuple[str, str]]:
    pairs = [
        (uri, grid[row + step[0], column + step[1]])
        for (row, column), uri in sorted(grid.items())
        if (row + step[0], column + step[1]) in grid
    ]
    every = max(1, len(pairs) // _PAIRS)
    # Spread over the montage: neighbours may all show resin.
    return pairs[every // 2 :: every][:_PAIRS]


def _reduced(image: NDArray[Any]) -> Float:
    """Small, without shading, and zero where there is a black frame."""
    box = valid_region(image)
    scale = _SMALL_PX / max(image.shape)
    small = image.astype(np.float32)
    if scale < 1:
        small = np.asarray(
            cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        )
    else:
        scale = 1.0
    blurred = cv2.GaussianBlur(small, (0, 0), 6.0)
    flat = np.zeros_like(small)
    y0, x0 = int(np.ceil(box.y0 * scale)), int(np.ceil(box.x0 * scale))
    where = np.s_[y0 : int(box.y1 * scale), x0 : int(box.x1 * scale)]
    flat[where] = (small - blurred)[where]
    return flat


def _measure(a: Float, b: Float, *, axis: int) -> float | None:
    """How far b lies behind a along an axis, in parts of a tile; None if unclear."""
    score = _correlation(a, b)
    length, width = a.shape[axis], a.shape[1 - axis]
    along = np.arange(round((1 - _MOST) * length), round((1 - _LEAST) * length))
    aside = np.arange(-round(_ASIDE * width), round(_ASIDE * width) + 1)
    places = (along, aside) if axis == 0 else (aside, along)
    window = score[np.ix_(places[0], places[1])]
    best = np.unravel_index(int(window.argmax()), window.shape)
    spread = 1.4826 * float(np.median(np.abs(window - np.median(window)))) + 1e-9
    if (window[best] - np.median(window)) / spread < _SIGNIFICANT:
        return None
    part: float = along[best[axis]] / length
    return part


def _correlation(a: Float, b: Float) -> Float:
    """Normalised correlation of what overlaps, times the root of its pixels.

    Entry `[y, x]` is for b shifted by (y, x); negative shifts count from the end.
    """
    from scipy.fft import irfft2, next_fast_len, rfft2

    # Twice as long: no shift meets its cyclic image.
    shape = [next_fast_len(2 * n, real=True) for n in a.shape]

    def sums(one: Any, other: Any) -> Any:
        return irfft2(one * np.conj(other), shape)

    # Double: the powers below are small differences of large sums.
    parts_a = [rfft2(p.astype(np.float64), shape) for p in (a, a**2, a != 0)]
    parts_b = [rfft2(p.astype(np.float64), shape) for p in (b, b**2, b != 0)]
    count = np.maximum(sums(parts_a[2], parts_b[2]), 1.0)
    mean_a, mean_b = sums(parts_a[0], parts_b[2]), sums(parts_a[2], parts_b[0])
    both = sums(parts_a[0], parts_b[0]) - mean_a * mean_b / count
    power_a = sums(parts_a[1], parts_b[2]) - mean_a**2 / count
    power_b = sums(parts_a[2], parts_b[1]) - mean_b**2 / count
    # Where hardly anything overlaps, rounding would score best.
    least = 1e-6 * float(power_a.max() * power_b.max())
    ncc = both / np.sqrt(np.maximum(power_a * power_b, max(least, 1e-12)))
    # n pixels agree by chance as 1 / sqrt(n): with the root all shifts compare.
    return np.asarray(ncc * np.sqrt(count), dtype=np.float32)
