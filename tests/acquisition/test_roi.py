"""A region of interest becomes the tiles that touch it."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from em_platform.acquisition.polygon import contains, distance_to_rectangle
from em_platform.acquisition.raster import stage_position
from em_platform.acquisition.roi import (
    created,
    middle_nm,
    polygon_nm,
    roi_of,
    rotation_rad,
    stops_of,
)
from em_platform.config import AcquisitionSettings, Settings, SimulationSettings
from em_platform.errors import AcquisitionError, ConfigError
from em_platform.model import Size

FRAME = Size(height_px=100, width_px=100)
SQUARE = [(-500, -500), (500, -500), (500, 500), (-500, 500)]


def roi(vertices: list[tuple[float, float]], **fields: Any) -> Any:
    return created(
        {
            "vertices": [{"x": x, "y": y} for x, y in vertices],
            "rotation_angle": 0.0,
            "montage_id": "m",
            **fields,
        }
    )


def settings(rotation_deg: float = 0.0, overlap: float = 0.12) -> Settings:
    return Settings(
        acquisition=AcquisitionSettings(
            overlap=overlap, simulation=SimulationSettings(rotation_deg=rotation_deg)
        )
    )


def places(found: Any) -> set[tuple[int, int]]:
    return {(stop.row, stop.column) for stop in found}


def raster(
    rows: int, columns: int, step_px: int, turned_rad: float
) -> list[tuple[int, int, int, int]]:
    """Row, column, x and y (nm) of tiles about the origin, there and back."""
    found = []
    for row in range(rows):
        for column in range(columns)[:: 1 if row % 2 == 0 else -1]:
            x_nm, y_nm = stage_position(
                (row - (rows - 1) / 2) * step_px,
                (column - (columns - 1) / 2) * step_px,
                pixel_nm=4.0,
                rotation_rad=turned_rad,
            )
            found.append((row, column, x_nm, y_nm))
    return found


@pytest.mark.parametrize("rotation_deg", [0.0, 30.0, 181.4])
@pytest.mark.parametrize("overlap", [0.0, 0.12, 0.6, 0.97])
def test_a_region_of_so_many_tiles_is_the_raster_of_so_many_tiles(
    rotation_deg: float, overlap: float
) -> None:
    chosen = settings(rotation_deg)
    frame = Size(height_px=1024, width_px=1024)
    for rows, columns in itertools.product((1, 2, 3, 7), (1, 2, 5)):
        step_px = 1024 - round(1024 * overlap)
        wanted = raster(rows, columns, step_px, rotation_rad(chosen))
        message = created(roi_of("m", 1, rows, columns, overlap, chosen))
        found = stops_of(
            message,
            frame,
            pixel_nm=4.0,
            overlap=0.12,
            rotation_rad=rotation_rad(chosen),
        )
        assert [stop.index for stop in found] == list(range(rows * columns))
        for stop, (row, column, x_nm, y_nm) in zip(found, wanted, strict=True):
            assert (stop.row, stop.column) == (row, column)
            assert abs(stop.x_nm - x_nm) <= 1
            assert abs(stop.y_nm - y_nm) <= 1


@pytest.mark.parametrize("pixel_nm", [3.9, 4.1])
def test_a_slightly_other_scale_gives_as_many_tiles(pixel_nm: float) -> None:
    frame = Size(height_px=1024, width_px=1024)
    message = created(roi_of("m", 1, 9, 8, None, settings()))
    found = stops_of(message, frame, pixel_nm=pixel_nm, overlap=0.12)
    assert len(found) == 72


def test_a_region_lies_about_the_place_that_is_asked_for() -> None:
    fields = roi_of("m", 1, 2, 3, None, settings(40.0), center_nm=(7000, -3000))
    assert middle_nm(created(fields)) == pytest.approx((7000, -3000), abs=1)


def test_an_overlap_of_the_settings_is_not_said_and_another_in_percent() -> None:
    assert roi_of("m", 1, 2, 2, None, settings())["overlap"] is None
    assert roi_of("m", 1, 2, 2, 0.125, settings(overlap=0.125))["overlap"] is None
    assert roi_of("m", 1, 2, 2, 0.25, settings())["overlap"] == 25
    with pytest.raises(ConfigError, match="whole percents"):
        roi_of("m", 1, 2, 2, 0.125, settings())


def test_only_tiles_that_touch_a_triangle_are_imaged() -> None:
    # tiles of 100 nm without overlap: a grid of 4 by 4, of it the upper left half
    corners = [(0.0, 0.0), (399.0, 0.0), (190.0, 190.0), (0.0, 399.0)]
    found = stops_of(roi(corners), FRAME, pixel_nm=1.0, overlap=0.0)
    assert places(found) == {(r, c) for r in range(4) for c in range(4) if r + c <= 3}
    assert [stop.index for stop in found] == list(range(len(found)))


def test_rows_run_forth_and_back() -> None:
    found = stops_of(roi(SQUARE), FRAME, pixel_nm=1.0, overlap=0.5)
    rows: dict[int, list[int]] = {}
    for stop in found:
        rows.setdefault(stop.row, []).append(stop.column)
    for row, columns in rows.items():
        assert columns == sorted(columns, reverse=bool(row % 2))
    assert min(rows) == 0
    assert min(min(columns) for columns in rows.values()) == 0


def test_every_point_of_a_region_is_on_a_tile() -> None:
    corners = [(0.0, 0.0), (900.0, 200.0), (700.0, 1100.0), (300.0, 500.0)]
    message = roi(corners)
    found = stops_of(message, FRAME, pixel_nm=1.0, overlap=0.1, rotation_rad=0.3)
    centres = np.array([(s.x_nm, s.y_nm) for s in found], float)
    random = np.random.default_rng(3)
    points = random.uniform((0, 0), (900, 1100), (4000, 2))
    inside = [p for p in points if contains(np.array(corners), p)]
    assert len(inside) > 500
    cos, sin = math.cos(0.3), math.sin(0.3)
    for x, y in inside:
        dx, dy = centres[:, 0] - x, centres[:, 1] - y
        along = np.abs(dx * cos + dy * sin), np.abs(dy * cos - dx * sin)
        assert (np.maximum(*along) <= 50.6).any()


def test_a_buffer_adds_the_tiles_that_it_reaches() -> None:
    corners = [(0.0, 0.0), (90.0, 0.0), (90.0, 90.0), (0.0, 90.0)]
    assert len(stops_of(roi(corners), FRAME, pixel_nm=1.0, overlap=0.0)) == 1
    grown = roi(corners, buffer_size=100.0)
    found = stops_of(grown, FRAME, pixel_nm=1.0, overlap=0.0)
    assert places(found) == {(r, c) for r in range(3) for c in range(3)}


def test_a_region_is_turned_about_its_center() -> None:
    message = roi(SQUARE, rotation_angle=math.pi / 2, center={"x": 500.0, "y": 500.0})
    turned = {tuple(np.round(corner).astype(int)) for corner in polygon_nm(message)}
    # (-500, -500) lies (-1000, -1000) from there; a quarter turn makes it (1000, -1000)
    assert (1500, -500) in turned
    assert (500, 500) in turned


def test_a_region_of_an_overview_is_moved_to_the_stage() -> None:
    message = roi(
        [(10, 10), (20, 10), (20, 30)],
        overview_nm_per_pixel=250.0,
        aperture_centroid_pixel={"x": 10, "y": 20},
        aperture_centroid_physical={"x": 1_000_000, "y": 500},
    )
    assert polygon_nm(message).tolist() == [
        [1_000_000, -2000],
        [1_002_500, -2000],
        [1_002_500, 3000],
    ]


@pytest.mark.parametrize(
    ("vertices", "fields", "sentence"),
    [
        ([(0, 0), (1, 1)], {}, "2 corners"),
        (SQUARE, {"overview_nm_per_pixel": 2.0}, "all three or none"),
        (SQUARE, {"overlap": 100}, "less than 100 %"),
        ([(x * 1e6, y * 1e6) for x, y in SQUARE], {}, "at most 100000"),
    ],
)
def test_a_region_that_cannot_be_imaged_is_refused(
    vertices: list[tuple[float, float]], fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AcquisitionError, match=sentence):
        stops_of(roi(vertices, **fields), FRAME, pixel_nm=1.0, overlap=0.1)


def test_the_way_to_a_rectangle_is_that_of_the_nearest_points() -> None:
    random = np.random.default_rng(8)
    low, high = np.array((2.0, 1.0)), np.array((4.0, 5.0))
    edge = np.linspace(0, 1, 400)[:, None]
    for _ in range(60):
        corners = random.uniform(-4, 9, (3, 2))
        ends = np.roll(corners, -1, axis=0)
        outline = np.vstack(
            [a + edge * (b - a) for a, b in zip(corners, ends, strict=True)]
        )
        outside = np.maximum(np.maximum(low - outline, outline - high), 0)
        nearest = np.hypot(outside[:, 0], outside[:, 1]).min()
        found = distance_to_rectangle(corners, low, high)
        if contains(corners, (low + high) / 2):
            assert found == 0.0
        else:
            assert found == pytest.approx(nearest, abs=0.03)
