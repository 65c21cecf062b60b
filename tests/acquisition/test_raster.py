"""Stage and image agree about where a tile lies, and a raster covers its region."""

import math
from itertools import pairwise

import pytest

from em_platform.acquisition.raster import (
    MontagePlan,
    image_position,
    raster,
    stage_position,
)
from em_platform.model import Size

PLAN = MontagePlan(montage_id="m-1", aperture_id=1, rows=3, columns=2, overlap=0.25)
SIZE = Size(height_px=100, width_px=200)


def test_a_raster_runs_to_and_fro_about_the_middle() -> None:
    stops = raster(PLAN, SIZE, pixel_nm=4.0)
    places = [(stop.row, stop.column) for stop in stops]
    assert places == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]
    assert [stop.index for stop in stops] == list(range(6))
    assert sum(stop.x_nm for stop in stops) == 0
    assert sum(stop.y_nm for stop in stops) == 0


def test_neighbours_share_the_overlap() -> None:
    stops = raster(PLAN, SIZE, pixel_nm=4.0)
    assert stops[1].x_nm - stops[0].x_nm == (200 - 25) * 4
    assert stops[2].y_nm - stops[1].y_nm == (100 - 25) * 4


@pytest.mark.parametrize("angle_deg", [0.0, 35.0, 181.4])
def test_stage_and_image_positions_undo_each_other(angle_deg: float) -> None:
    angle = math.radians(angle_deg)
    x_nm, y_nm = stage_position(1234.0, -567.0, pixel_nm=4.0, rotation_rad=angle)
    back = image_position(x_nm, y_nm, pixel_nm=4.0, rotation_rad=angle)
    assert back == pytest.approx((1234.0, -567.0), abs=0.2)


def test_a_turned_raster_is_regular_in_the_image() -> None:
    angle = 0.61
    places = [
        image_position(stop.x_nm, stop.y_nm, pixel_nm=4.0, rotation_rad=angle)
        for stop in raster(PLAN, SIZE, pixel_nm=4.0, rotation_rad=angle)
    ]
    steps = {(round(b[0] - a[0]), round(b[1] - a[1])) for a, b in pairwise(places)}
    assert steps == {(0, 175), (75, 0), (0, -175)}
