import math

import pytest
from pydantic import ValidationError

from em_platform.acquisition.roi import created, stops_of
from em_platform.config import Settings
from em_platform.model import Size
from em_platform.operator.commands import RoiForm, create_fields

FRAME = Size(height_px=512, width_px=512)


def stops(form: RoiForm) -> list[tuple[int, int]]:
    settings = Settings()
    fields = create_fields(form, settings, frame=FRAME, pending=2)
    found = stops_of(
        created(fields),
        FRAME,
        pixel_nm=settings.acquisition.pixel_nm,
        overlap=settings.acquisition.overlap,
    )
    return [(stop.row, stop.column) for stop in found]


def test_rows_and_columns_give_exactly_so_many_tiles() -> None:
    form = RoiForm(montage_id="m-1", aperture_id=1, rows=3, columns=5)
    assert len(stops(form)) == 15
    assert max(stops(form)) == (2, 4)


def test_a_width_gives_as_many_tiles_as_cover_it() -> None:
    # A frame is 2.048 µm wide and shares 12 %: four steps of 1.802 µm cover 9 µm.
    form = RoiForm(montage_id="m-1", aperture_id=1, width_um=9, height_um=2)
    assert stops(form) == [(0, column) for column in range(5)]


def test_what_the_form_says_is_in_the_message() -> None:
    form = RoiForm(
        montage_id="m-1",
        aperture_id=4,
        width_um=20,
        height_um=10,
        angle_deg=90,
        center_x_um=3,
        overlap_percent=15,
        calibrations=("dark_field",),
        roi_name="Cortex",
    )
    roi = created(create_fields(form, Settings(), frame=None, pending=2))
    assert roi.rotation_angle == pytest.approx(math.pi / 2)
    assert (roi.center.x, roi.center.y) == (3000, 0)
    assert {vertex.x for vertex in roi.vertices} == {-7000, 13000}
    assert (roi.overlap, roi.queue_position, roi.roi_name) == (15, 2, "Cortex")
    assert roi.calibrations.dark_field


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rows": 2},
        {"rows": 2, "columns": 2, "width_um": 1, "height_um": 1},
        {"rows": 2, "columns": 2, "angle_deg": 10},
        {"rows": 2, "columns": 2, "calibrations": ["make_coffee"]},
        {"width_um": 0, "height_um": 1},
    ],
)
def test_a_form_that_makes_no_region_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RoiForm.model_validate({"montage_id": "m-1", "aperture_id": 1, **fields})
