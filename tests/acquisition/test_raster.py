"""Stage and image agree about where a tile lies."""

import math

import pytest

from em_platform.acquisition.raster import image_position, stage_position


@pytest.mark.parametrize("angle_deg", [0.0, 35.0, 181.4])
def test_stage_and_image_positions_undo_each_other(angle_deg: float) -> None:
    angle = math.radians(angle_deg)
    x_nm, y_nm = stage_position(1234.0, -567.0, pixel_nm=4.0, rotation_rad=angle)
    back = image_position(x_nm, y_nm, pixel_nm=4.0, rotation_rad=angle)
    assert back == pytest.approx((1234.0, -567.0), abs=0.2)


def test_the_image_is_turned_as_em_stitch_turns_it() -> None:
    y_px, x_px = image_position(400.0, 0.0, pixel_nm=4.0, rotation_rad=math.pi / 2)
    assert (y_px, x_px) == pytest.approx((-100.0, 0.0))
