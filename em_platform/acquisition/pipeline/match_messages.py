"""Measured pairs as the fields of `tile.template_matches` and `tile.matches`.

Pairs of numbers are `x, y` in these messages; the template is always of the captured
tile (query, p) and is sought in the neighbour (search, "img2", q).
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from em_platform.acquisition.pipeline.matching import MeasuredPair
from em_platform.imaging.lens import undistort_points
from em_platform.imaging.register import PatchShifts
from em_platform.messaging.topics import Body
from em_platform.model import LensModel

Points = npt.NDArray[np.float64]


def template_matches(measured: MeasuredPair) -> Body:
    """The fields of one container: every patch that was tried, good or not.

    Of a pair that could not be compared at all, one template with the reason stands in
    the middle of the overlap.
    """
    found = measured.found
    if found.patches is None or not len(found.patches.scores):
        templates = [_none(measured)]
    else:
        count = len(found.patches.scores)
        templates = [_template(measured, found.patches, i) for i in range(count)]
    return _place(measured) | {"matches": templates}


def match(measured: MeasuredPair, lens: LensModel | None) -> Body:
    """The fields of one match; without points where the pair cannot be trusted.

    `dX, dY` is how far the captured tile must be moved from its nominal place. With a
    lens, points and offset are those of the corrected tiles.
    """
    # `b` is the captured tile, whose points are p; `a` is the neighbour.
    p, q = measured.found.b_points, measured.found.a_points
    if p is None or q is None:
        p = q = np.zeros((0, 2))
    if lens is not None and len(p):
        p, q = undistort_points(lens, p), undistort_points(lens, q)
    offsets = q - p - _nominal(measured)
    # The mean of no points would be NaN, which JSON does not have.
    dy, dx = offsets.mean(axis=0).tolist() if len(p) else (0.0, 0.0)
    dy_sd, dx_sd = offsets.std(axis=0).tolist() if len(p) else (0.0, 0.0)
    return _place(measured) | {
        "dX": dx,
        "dY": dy,
        "dXsd": dx_sd,
        "dYsd": dy_sd,
        "distance": math.hypot(dx, dy),
        "rotation": _turn(p, q),
        "pX": p[:, 1].tolist(),
        "pY": p[:, 0].tolist(),
        "qX": q[:, 1].tolist(),
        "qY": q[:, 0].tolist(),
    }


def _place(measured: MeasuredPair) -> dict[str, int | str]:
    row, column = measured.neighbour.place
    tile = measured.pair.b
    if row != tile.row:
        position = "top" if row < tile.row else "bottom"
    else:
        position = "left" if column < tile.column else "right"
    return {"row": row, "column": column, "position": position}


def _nominal(measured: MeasuredPair) -> Points:
    nominal = measured.pair.nominal
    return np.array([nominal.dy_px, nominal.dx_px])


def _template(measured: MeasuredPair, patches: PatchShifts, i: int) -> Body:
    a, b = np.array(measured.a), np.array(measured.b)
    # Patches are in pixels of the strips, the message in those of the tiles.
    query, matched = patches.b_points[i] + b, patches.a_points[i] + a
    window = patches.windows[i] + np.tile(a, 2)
    expected = query + _nominal(measured)
    # Pixel centres are whole numbers: the middle of n pixels is (n - 1) / 2.
    half = 0.5 * (window[2:] - window[:2]) - 0.5
    middle = (np.array(patches.size) - 1) / 2.0
    corner = window[:2] + patches.places[i]
    offset = matched - expected
    reason = _reject_reason(measured, patches, i)
    return {
        "query_point": _xy(query),
        "search_point": _xy(window[:2] + half),
        "offset": _xy(offset),
        "distance": float(np.hypot(*offset)),
        "rotation": math.atan2(offset[0], offset[1]),
        "maxVal": float(patches.scores[i]),
        "minVal": float(patches.lowest[i]),
        "expected_offset_in_crop": _whole_xy(expected - middle - window[:2]),
        "maxLoc": _whole_xy(patches.places[i]),
        "matched_pos_img2": _whole_xy(corner),
        "matched_center_img2": _whole_xy(corner + middle),
        "good": not reason,
        "reject_reason": reason,
    }


def _reject_reason(measured: MeasuredPair, patches: PatchShifts, i: int) -> str:
    found = measured.found
    if found.reason:
        return found.reason
    if found.agree is not None and found.agree[i]:
        return ""
    return (
        f"correlation {patches.scores[i]:.2f}, or a shift that differs from the "
        "other patches'"
    )


def _none(measured: MeasuredPair) -> Body:
    """Nothing was compared: the place where it would have been, and why not."""
    tile, nominal = measured.pair.b.size, _nominal(measured)
    other = measured.pair.a.size
    first = np.maximum(0.0, -nominal)
    last = np.minimum(
        (tile.height_px, tile.width_px),
        np.array((other.height_px, other.width_px)) - nominal,
    )
    # Tiles that do not overlap have last < first: then the edge is named.
    query = 0.5 * (first + np.maximum(first, last)) - 0.5
    search = query + nominal
    return {
        "query_point": _xy(query),
        "search_point": _xy(search),
        "offset": (0.0, 0.0),
        "distance": 0.0,
        "rotation": 0.0,
        "maxVal": 0.0,
        "minVal": 0.0,
        "expected_offset_in_crop": (0, 0),
        "maxLoc": (0, 0),
        "matched_pos_img2": _whole_xy(search),
        "matched_center_img2": _whole_xy(search),
        "good": False,
        "reject_reason": measured.found.reason or "no patch was found in its search",
    }


def _turn(p: Points, q: Points) -> float:
    """The angle in radians, from x to y, that turns the points p to lie like q."""
    # Two points lie exactly at some angle, however wrong they are.
    if len(p) < 3:
        return 0.0
    (py, px), (qy, qx) = (p - p.mean(axis=0)).T, (q - q.mean(axis=0)).T
    # Procrustes in two dimensions: the angle of least squares, in closed form.
    return math.atan2(float(px @ qy - py @ qx), float(px @ qx + py @ qy))


def _xy(point: Points) -> tuple[float, float]:
    return float(point[1]), float(point[0])


def _whole_xy(point: Any) -> tuple[int, int]:
    return round(float(point[1])), round(float(point[0]))
