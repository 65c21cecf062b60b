"""Maps of a run: one value a tile, by row and column, as numbers or as a picture."""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

Place = tuple[int, int, float | None]

_EDGE_PX = 900  # of the picture's longer side, at most
_CELL_PX = (1, 40)


def heatmap(places: Iterable[Place]) -> NDArray[np.float64]:
    """`(rows, columns)` from the first to the last of each; NaN where nothing is.

    Parameters
    ----------
    places
        `(row, column, value)` of each tile; of two at one place the last counts.
    """
    known = list(places)
    if not known:
        return np.zeros((0, 0))
    at = np.array([place[:2] for place in known])
    first = at.min(axis=0)
    values = [np.nan if value is None else value for _, _, value in known]
    grid = np.full(tuple(at.max(axis=0) - first + 1), np.nan)
    grid[tuple((at - first).T)] = values
    return grid


def nested(grid: NDArray[np.float64]) -> list[list[float | None]]:
    """The map as JSON takes it: null for NaN."""
    return [[None if np.isnan(v) else float(v) for v in row] for row in grid]


def picture(grid: NDArray[np.float64]) -> bytes:
    """The map as a PNG: dark is low, bright is high (viridis), grey is no value."""
    if not grid.size or np.isnan(grid).all():
        shown = np.full((1, 1, 3), 128, np.uint8)
    else:
        low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
        share = (np.nan_to_num(grid, nan=low) - low) / ((high - low) or 1.0)
        levels = np.round(share * 255).astype(np.uint8)
        shown = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS).astype(np.uint8)
        shown[np.isnan(grid)] = 128
    smallest, largest = _CELL_PX
    cell = min(largest, max(smallest, _EDGE_PX // max(shown.shape[:2])))
    large = cv2.resize(shown, None, fx=cell, fy=cell, interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".png", large)[1].tobytes()
