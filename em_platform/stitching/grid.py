"""Rows and columns of tiles from where they lie."""

import numpy as np
from numpy.typing import NDArray

from em_platform.model import Size

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
