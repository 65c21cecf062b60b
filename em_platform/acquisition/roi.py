"""From a region of interest to the tiles that image it, and back.

A `roi.create` says a polygon. Its vertices are stage nanometres; with
`overview_nm_per_pixel` they are pixels of the overview image, and
`aperture_centroid_pixel` there is `aperture_centroid_physical` (nm) on the stage. The
polygon is turned by `rotation_angle` (rad, from x to y) about `center`, else about the
middle of its bounds, and grown by `buffer_size` (nm).
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from TEM_comms.roi import CreateROI

from em_platform.acquisition.polygon import distance_to_rectangle
from em_platform.acquisition.raster import Stop, image_position, stage_position
from em_platform.config import Settings
from em_platform.errors import AcquisitionError, ConfigError
from em_platform.messaging.topics import Body, fitting
from em_platform.model import Size

RoiFields: TypeAlias = dict[str, Any]
"""Fields of a `roi.create`, which `CreateROI` checks (see `created`)."""

LAST = 1_000_000
"""A `queue_position` behind all others; None would make the region the next."""

# Real ones: 2,772 tiles (TEMCA2), 8,372 (example in TilEM's topics.md).
MOST_TILES = 100_000
"""A region of more tiles is taken for a mistake in its units."""


def stops_of(
    roi: CreateROI,
    frame: Size,
    *,
    pixel_nm: float,
    overlap: float,
    rotation_rad: float = 0.0,
) -> tuple[Stop, ...]:
    """The tiles that touch the region, row by row, every other row backwards.

    Parameters
    ----------
    roi
        The region; its own `overlap` (percent) counts before `overlap`.
    frame
        Size of the camera's frames.
    pixel_nm
        Length of a pixel on the specimen.
    overlap
        What neighbours share, as a part (0 to 1) of the frame's shorter edge.
    rotation_rad
        From the stage's axes to the image's, as in `montage.complete`.

    Raises
    ------
    AcquisitionError
        The polygon is none, or it needs more than `MOST_TILES` tiles.
    """
    shared = shared_px(roi, frame, overlap=overlap)
    corners = _in_pixels(polygon_nm(roi), pixel_nm, rotation_rad)
    grown = roi.buffer_size / pixel_nm
    step = (frame.height_px - shared, frame.width_px - shared)
    low, high = corners.min(axis=0) - grown, corners.max(axis=0) + grown
    counts = [
        # 1e-6: rounding must not add a row to a region that fits
        max(math.ceil((far - near - edge) / pace - 1e-6) + 1, 1)
        for near, far, edge, pace in zip(
            low, high, (frame.height_px, frame.width_px), step, strict=True
        )
    ]
    # before the loop, which would take for ever with wrong units
    _check_count(roi, counts[0] * counts[1])
    middle = (low + high) / 2
    half = np.array((frame.height_px, frame.width_px)) / 2
    stops: list[Stop] = []
    for row in range(counts[0]):
        columns = range(counts[1])
        # back and forth: at a row's end the stage goes only one step
        for column in columns if row % 2 == 0 else reversed(columns):
            y = middle[0] + (row - (counts[0] - 1) / 2) * step[0]
            x = middle[1] + (column - (counts[1] - 1) / 2) * step[1]
            tile = np.array((y, x))
            if distance_to_rectangle(corners, tile - half, tile + half) > grown:
                continue
            x_nm, y_nm = stage_position(
                y, x, pixel_nm=pixel_nm, rotation_rad=rotation_rad
            )
            stops.append(
                Stop(index=len(stops), row=row, column=column, x_nm=x_nm, y_nm=y_nm)
            )
    return tuple(stops)


def shared_px(roi: CreateROI, frame: Size, *, overlap: float) -> int:
    """How many pixels two neighbours share; `overlap` where the region says nothing."""
    part = overlap if roi.overlap is None else roi.overlap / 100
    edge = min(frame.height_px, frame.width_px)
    shared = round(part * edge)
    if shared >= edge:
        raise _error(roi, f"its overlap is {part:.0%}, expected less than 100 %")
    return shared


def polygon_nm(roi: CreateROI) -> np.ndarray:
    """`(n, 2)` float; the region's corners on the stage, (x, y) in nm.

    Raises
    ------
    AcquisitionError
        There are fewer than three corners, or one is not finite.
    """
    # no vertices make an array without a second axis
    corners = np.array([(v.x, v.y) for v in roi.vertices], dtype=float).reshape(-1, 2)
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise _error(
            roi, f"it has {len(corners)} corners, expected three or more finite ones"
        )
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    if roi.center is not None:
        middle = np.array((roi.center.x, roi.center.y))
    cos, sin = math.cos(roi.rotation_angle), math.sin(roi.rotation_angle)
    # corners are rows: the matrix stands transposed, and behind
    corners = (corners - middle) @ np.array(((cos, sin), (-sin, cos))) + middle
    # turned before: center is in the units of the vertices
    return _on_stage(roi, corners)


def middle_nm(roi: CreateROI) -> tuple[int, int]:
    """The middle of the region's bounds on the stage, (x, y) in nm."""
    corners = polygon_nm(roi)
    x, y = (corners.min(axis=0) + corners.max(axis=0)) / 2
    return round(x), round(y)


def roi_of(
    montage_id: str,
    aperture_id: int | None,
    rows: int,
    columns: int,
    overlap: float | None,
    settings: Settings,
    *,
    acquisition_type: str = "montage",
    calibrations: Mapping[str, bool] | None = None,
    frame: Size | None = None,
    center_nm: tuple[float, float] = (0.0, 0.0),
    pixel_nm: float | None = None,
    rotation: float | None = None,
    queue_position: int | None = LAST,
) -> RoiFields:
    """Fields of a `roi.create` that gives exactly `rows` by `columns` tiles.

    The region ends in the middle of the outer tiles' own parts, so it gives the same
    tiles when the pixel size is calibrated a little differently.

    Parameters
    ----------
    overlap
        Part of an edge, 0 to 1; None for that of the settings.
    frame
        Size of the camera's frames; None for that of the settings.
    center_nm
        Middle of the montage on the stage, (x, y).
    pixel_nm, rotation
        Length of a pixel, and the camera's rotation in rad; None for the settings'.
    queue_position
        Where in the queue; `LAST` is its end.

    Raises
    ------
    ConfigError
        The overlap differs from that of the settings and is no whole percentage.
    """
    acquisition = settings.acquisition
    edge = acquisition.expected_frame_px
    frame = frame or Size(height_px=edge, width_px=edge)
    pixel_nm = pixel_nm or acquisition.pixel_nm
    turned = rotation_rad(settings) if rotation is None else rotation
    part = acquisition.overlap if overlap is None else overlap
    shared = round(part * min(frame.height_px, frame.width_px))
    size_px = (
        _reach(frame.height_px, shared, rows),
        _reach(frame.width_px, shared, columns),
    )
    return {
        "vertices": _rectangle(size_px, center_nm, pixel_nm, turned),
        "rotation_angle": 0.0,
        "montage_id": montage_id,
        "aperture_id": aperture_id,
        "overlap": _percent(part, acquisition.overlap),
        "queue_position": queue_position,
        "acquisition_type": acquisition_type,
        "calibrations": dict(calibrations or {}),
    }


def created(fields: Body) -> CreateROI:
    """The `roi.create` message with these fields; MessageRejected where none fits."""
    message: CreateROI = fitting("roi.create", fields)
    return message


def rotation_rad(settings: Settings) -> float:
    """The camera's rotation against the stage, as long as none is calibrated."""
    return math.radians(settings.acquisition.expected_rotation_deg)


def _reach(edge: int, shared: int, count: int) -> float:
    """How long a region is, in pixels, that takes `count` tiles along an axis."""
    # half a step less than the tiles cover, see `roi_of`
    return edge / 2 if count == 1 else edge + (count - 1.5) * (edge - shared)


def _rectangle(
    size_px: tuple[float, float],
    center_nm: tuple[float, float],
    pixel_nm: float,
    turned_rad: float,
) -> list[dict[str, float]]:
    """Corners on the stage (nm) of a rectangle, height and width, along the image."""
    middle_y, middle_x = image_position(
        *center_nm, pixel_nm=pixel_nm, rotation_rad=turned_rad
    )
    half_y, half_x = size_px[0] / 2, size_px[1] / 2
    corners = [
        stage_position(
            middle_y + y, middle_x + x, pixel_nm=pixel_nm, rotation_rad=turned_rad
        )
        for y, x in (
            (-half_y, -half_x),
            (-half_y, half_x),
            (half_y, half_x),
            (half_y, -half_x),
        )
    ]
    return [{"x": float(x), "y": float(y)} for x, y in corners]


def _percent(part: float, default: float) -> int | None:
    # None keeps that of the settings, which need be no whole percent
    if math.isclose(part, default):
        return None
    # as floats 0.07 * 100 is not 7
    if not math.isclose(part * 100, round(part * 100), abs_tol=1e-6):
        raise ConfigError(
            f"roi: an overlap of {part * 100:g} % was asked for, roi.create takes "
            "whole percents; round it, or set acquisition.overlap"
        )
    return round(part * 100)


def _in_pixels(corners_nm: np.ndarray, pixel_nm: float, rotation: float) -> np.ndarray:
    return np.array(
        [
            image_position(x, y, pixel_nm=pixel_nm, rotation_rad=rotation)
            for x, y in corners_nm
        ]
    )


def _on_stage(roi: CreateROI, corners: np.ndarray) -> np.ndarray:
    scale = roi.overview_nm_per_pixel
    if scale is None:
        return corners
    pixel, physical = roi.aperture_centroid_pixel, roi.aperture_centroid_physical
    if pixel is None or physical is None:
        raise _error(
            roi,
            "overview_nm_per_pixel is given without aperture_centroid_pixel and "
            "aperture_centroid_physical, expected all three or none",
        )
    stage: np.ndarray = (corners - (pixel.x, pixel.y)) * scale
    stage += np.array((physical.x, physical.y))
    return stage


def _check_count(roi: CreateROI, count: int) -> None:
    if count > MOST_TILES:
        raise _error(
            roi, f"it needs {count} tiles, at most {MOST_TILES} are imaged in one go"
        )


def _error(roi: CreateROI, found: str) -> AcquisitionError:
    return AcquisitionError(
        f"roi {roi.montage_id}: {found}; correct the roi.create and send it again",
        montage_id=roi.montage_id,
    )
