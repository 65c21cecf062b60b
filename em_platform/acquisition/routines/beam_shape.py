"""The beam as the camera sees it: a disc, from two frames of the same place."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.routines.steps import Image, grey

_CELL_PX = 8  # means over so many pixels: noise falls to an eighth
_LIT = 0.5  # of the disc's own light: its edge is there
_LEAST_CELLS = 12  # of edge: a circle has three unknowns, noise needs the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Disc:
    """A round beam; lengths in half diagonals of the frame, from its middle."""

    y: float
    x: float
    radius: float
    level: float
    """Its light over that of the reference frame."""


def disc_of(narrow: Image, reference: Image, *, exposure: float = 1.0) -> Disc | None:
    """The disc that a narrow beam draws; None where no edge of it is in the frame.

    Specimen and gain are in both frames and cancel in their ratio. A circle is fitted
    to the edge of what is lit, so that a disc that is cut by the frame's border is
    found as well: its centroid would be off towards the middle.

    Parameters
    ----------
    reference
        The same place under a wide beam.
    exposure
        How much longer the narrow frame was exposed.
    """
    ratio = _cells(narrow) / np.maximum(_cells(reference), 1.0)
    lit_level = float(np.percentile(ratio, 99.0))
    unlit = float(np.percentile(ratio, 1.0))
    # 0.01: without any light twice nothing would be enough
    if lit_level < 2.0 * max(unlit, 0.01):
        return None
    lit = ratio > _LIT * lit_level
    # above 0.8: without the soft edge of the disc
    level = float(np.median(ratio[ratio > 0.8 * lit_level])) / exposure
    # the ratio at the edge has the exposure in it, `level` has not
    points = _edge_points(ratio, _LIT * level * exposure, lit)
    if len(points) < _LEAST_CELLS:
        return None
    y, x, radius = fit_circle(points)
    rows, columns = ratio.shape
    half = 0.5 * float(np.hypot(rows, columns))
    return Disc(
        y=(y - 0.5 * (rows - 1)) / half,
        x=(x - 0.5 * (columns - 1)) / half,
        radius=radius / half,
        level=level,
    )


def fit_circle(points: NDArray[np.float64]) -> tuple[float, float, float]:
    """Middle (y, x) and radius of the circle through `(n, 2)` points (Kasa 1976)."""
    y, x = points[:, 0], points[:, 1]
    matrix = np.stack([2.0 * y, 2.0 * x, np.ones(len(points))], axis=1)
    (b, a, c), *_ = np.linalg.lstsq(matrix, y * y + x * x, rcond=None)
    return float(b), float(a), float(np.sqrt(max(c + a * a + b * b, 0.0)))


def brightness_ratio(frame: Image, reference: Image, *, exposure: float = 1.0) -> float:
    """Light of a frame over that of another of the same place, in its middle half."""
    inner = np.s_[frame.shape[0] // 4 : -(frame.shape[0] // 4),
                  frame.shape[1] // 4 : -(frame.shape[1] // 4)]  # fmt: skip
    over = float(grey(frame)[inner].mean()) / exposure
    return over / max(float(grey(reference)[inner].mean()), 1.0)


def evenness(frame: Image, reference: Image) -> float:
    """Darkest corner over the middle, each relative to the reference; 1 is even."""
    ratio = _cells(frame) / np.maximum(_cells(reference), 1.0)
    rows, columns = (max(1, length // 8) for length in ratio.shape)
    corners = (ratio[:rows, :columns], ratio[:rows, -columns:],
               ratio[-rows:, :columns], ratio[-rows:, -columns:])  # fmt: skip
    y, x = (length // 2 for length in ratio.shape)
    middle = ratio[y - rows : y + rows, x - columns : x + columns].mean()
    return float(min(corner.mean() for corner in corners) / max(middle, 1e-6))


def _edge_points(
    ratio: NDArray[np.floating], level: float, lit: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Places (y, x) between cells where the ratio crosses `level`."""
    largest = _largest(lit)
    points = []
    for step_y, step_x in ((0, 1), (1, 0)):
        a = ratio[: ratio.shape[0] - step_y, : ratio.shape[1] - step_x]
        b = ratio[step_y:, step_x:]
        inside = largest[: a.shape[0], : a.shape[1]]
        crossed = inside != largest[step_y:, step_x:]
        y, x = np.nonzero(crossed)
        share = (level - a[y, x]) / (b[y, x] - a[y, x] + 1e-12)
        share = np.clip(share, 0.0, 1.0)
        points.append(np.stack([y + share * step_y, x + share * step_x], axis=1))
    return np.concatenate(points)


def _largest(lit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part."""
    count, labels, sizes, _ = cv2.connectedComponentsWithStats(lit.astype(np.uint8))
    if count < 2:
        return lit
    return np.asarray(labels == 1 + int(np.argmax(sizes[1:, cv2.CC_STAT_AREA])))


def _cells(frame: Image) -> NDArray[np.float32]:
    """Means over 8 x 8 pixels, or fewer for a small frame."""
    levels = grey(frame)
    cell = max(1, min(_CELL_PX, min(levels.shape) // 32))
    size = (levels.shape[1] // cell, levels.shape[0] // cell)
    cut = levels[: size[1] * cell, : size[0] * cell]
    return np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.float32)
