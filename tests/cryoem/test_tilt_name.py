"""Sessions, services and projects read the name of a tilt in one way."""

from pathlib import PurePath

import pytest

from em_platform.cryoem.tilt_name import TiltName, series_of, tilt_name


@pytest.mark.parametrize(
    ("name", "series", "number", "angle_deg"),
    [
        # Thermo Fisher's Tomography 5
        ("Position_1_2_011_12.00_20230614_103022_EER.eer", "Position_1_2", 11, 12.0),
        ("P_1_003_-54.00_20230101_1200_motion_corrected.mrc", "P_1", 3, -54.0),
        # its 5.7
        ("Position_23_001[-60.00]-234_fractions.mrc", "Position_23", 1, -60.0),
        ("Position_1_[30.0].tiff", "Position_1", None, 30.0),
        ("Position_12[3].tiff", "Position_12", None, 3.0),
        # SerialEM; the second and third stand in mdocs of the shared data
        ("TS_019_0000_8.0.mrc", "TS_019", 0, 8.0),
        ("TS_01_000_0.0.mrc", "TS_01", 0, 0.0),
        ("s_mmm_00993_33.0_Oct08_07.39.05.tif", "s_mmm", 993, 33.0),
        ("TS_019_012_-14.0_Jun06_23.51.26.tif", "TS_019", 12, -14.0),
    ],
)
def test_the_name_of_a_tilt_says_series_number_and_angle(
    name: str, series: str, number: int | None, angle_deg: float
) -> None:
    path = PurePath("a_1_1.5/b", name)
    wanted = TiltName(
        series=series,
        number=number,
        angle_deg=angle_deg,
        is_counted_by_camera=number == 993,
    )
    assert tilt_name(path) == wanted
    assert series_of(path) == series


@pytest.mark.parametrize(
    "name",
    [
        "FoilHole_1_Data_2_3_20230101_120000_fractions.tiff", "grid7_0001.mrc",
        "movie_01_02.tif", "grid_20230614_10.30.mrc", "a_1_120.0.mrc", "a_001.mrc",
    ],
)  # fmt: skip
def test_other_names_are_of_no_tilt(name: str) -> None:
    assert tilt_name(PurePath("session", name)) is None


def test_a_stack_and_its_volume_are_of_the_series_that_they_begin_with() -> None:
    assert series_of(PurePath("TS_1_stack_Vol.mrc")) == "TS_1"
    assert series_of(PurePath("tomogram.mrc")) == "tomogram"
