"""How far a polygon is from a rectangle."""

import numpy as np


def distance_to_rectangle(
    corners: np.ndarray, low: np.ndarray, high: np.ndarray
) -> float:
    """Shortest way between a filled polygon and a filled rectangle; 0 when they touch.

    Parameters
    ----------
    corners
        `(n, 2)` float; of the polygon, n >= 3, the last joins the first.
    low, high
        `(2,)` float; the rectangle's opposite corners.
    """
    # the rectangle may lie within: then no edge comes near it
    if contains(corners, (low + high) / 2):
        return 0.0
    starts, ends = corners, np.roll(corners, -1, axis=0)
    if _crosses(starts, ends, low, high).any():
        return 0.0
    # Apart: the shortest way ends in a corner of the one or of the other.
    outside = np.maximum(np.maximum(low - corners, corners - high), 0.0)
    box = np.array((low, (low[0], high[1]), high, (high[0], low[1])))
    from_corners = np.hypot(outside[:, 0], outside[:, 1]).min()
    from_box = min(_to_segments(corner, starts, ends) for corner in box)
    return float(min(from_corners, from_box))


def contains(corners: np.ndarray, point: np.ndarray) -> bool:
    """Whether a point lies within the polygon, by the even-odd rule."""
    a, b = corners, np.roll(corners, -1, axis=0)
    spans = (a[:, 1] > point[1]) != (b[:, 1] > point[1])
    a, b = a[spans], b[spans]
    # never divided by 0: a level edge spans no point
    at = a[:, 0] + (point[1] - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    return bool(np.count_nonzero(point[0] < at) % 2)


def _crosses(
    starts: np.ndarray, ends: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Which segments have a point in the rectangle (Liang and Barsky's clipping)."""
    way = ends - starts
    # along an axis the way is 0: `still` takes its place below
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = (low - starts) / way, (high - starts) / way
    still = way == 0
    inside = (starts >= low) & (starts <= high)
    enter = np.where(still, np.where(inside, -np.inf, np.inf), np.minimum(near, far))
    leave = np.where(still, np.where(inside, np.inf, -np.inf), np.maximum(near, far))
    first = np.maximum(enter.max(axis=1), 0.0)
    last = np.minimum(leave.min(axis=1), 1.0)
    crossed: np.ndarray = first <= last
    return crossed


def _to_segments(point: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> float:
    way = ends - starts
    # 1e-300: a corner that comes twice has no length
    length = np.maximum((way**2).sum(axis=1), 1e-300)
    part = np.clip(((point - starts) * way).sum(axis=1) / length, 0.0, 1.0)
    apart = starts + part[:, None] * way - point
    return float(np.hypot(apart[:, 0], apart[:, 1]).min())
