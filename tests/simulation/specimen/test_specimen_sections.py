"""Tissue that is kept is the tissue that would be drawn."""

import numpy as np
import pytest

from em_platform.simulation.specimen import Tissue
from em_platform.simulation.specimen.overview import overview
from em_platform.simulation.specimen.tissue import tissue


@pytest.mark.parametrize("corner", [(0, 0), (-77, 31), (40, 100), (-10, -10)])
def test_every_window_has_the_same_values_however_it_is_reached(
    corner: tuple[int, int],
) -> None:
    kept = Tissue(3)
    kept.window(10, 20, height=90, width=110, section=2)
    found = kept.window(*corner, height=130, width=70, section=2)
    expected = tissue(*corner, height=130, width=70, section=2, seed=3)
    assert np.array_equal(found, expected)


def test_sections_are_kept_apart() -> None:
    kept = Tissue(3)
    one = kept.window(0, 0, height=64, width=64, section=1)
    two = kept.window(0, 0, height=64, width=64, section=9)
    assert not np.array_equal(one, two)


def test_repeated_tissue_begins_anew() -> None:
    repeated = Tissue(3, repeat_px=128)
    first = repeated.window(0, 0, height=128, width=128, section=0)
    assert np.array_equal(first, tissue(0, 0, height=128, width=128, seed=3))
    wide = repeated.window(-100, 300, height=300, width=200, section=0)
    rows, columns = np.arange(-100, 200) % 128, np.arange(300, 500) % 128
    assert np.array_equal(wide, first[rows[:, None], columns[None, :]])


def test_what_is_kept_is_bounded() -> None:
    kept = Tissue(3)
    kept._most = 12
    for row in range(4):
        found = kept.window(row * 256, 0, height=200, width=300, section=0)
        assert len(kept._kept) == 12
    expected = tissue(3 * 256, 0, height=200, width=300, seed=3)
    assert np.array_equal(found, expected)


def test_low_magnification_shows_spots_that_fit_together() -> None:
    kept = Tissue(3, pixel_nm=80.0)
    found = kept.window(-30, 50, height=100, width=90, section=4)
    expected = overview(-30, 50, height=100, width=90, section=4, seed=3, pixel_nm=80.0)
    assert np.array_equal(found, expected)
    assert 100 < found.mean() < 200
    assert found.std() > 5
