"""Grey ranges that are known before, and stretching to them."""

import numpy as np
import pytest

from em_platform.errors import DataError
from em_platform.imaging.contrast import clahe, grey_range, stretch
from em_platform.imaging.correct import FlatField


def ramp(low: int, high: int, side: int = 200) -> np.ndarray:
    values = np.linspace(low, high, side * side).round().astype(np.uint16)
    return np.random.default_rng(0).permutation(values).reshape(side, side)


def test_the_range_is_that_of_all_samples_together() -> None:
    low, high = grey_range([ramp(1000, 2000), ramp(2000, 3000)], (1.0, 99.0))
    assert low == pytest.approx(1020, abs=5)
    assert high == pytest.approx(2980, abs=5)


def test_a_black_frame_does_not_count() -> None:
    framed = np.zeros((260, 260), np.uint16)
    framed[30:230, 30:230] = ramp(1000, 2000)
    low, _ = grey_range([framed, np.zeros((260, 260), np.uint16)], (1.0, 99.0))
    assert low == pytest.approx(1010, abs=5)


def test_the_flat_field_comes_first() -> None:
    flat = FlatField(
        gain=np.full((200, 200), 2.0, np.float32),
        dark=np.full((200, 200), 500.0, np.float32),
    )
    low, high = grey_range([ramp(1000, 2000)], (0.0, 100.0), flat_field=flat)
    assert (low, high) == (1000.0, 3000.0)


def test_the_range_is_at_least_one_grey_level_wide() -> None:
    sample = np.random.default_rng(0).integers(7, 9, (100, 100)).astype(np.uint16)
    low, high = grey_range([sample], (80.0, 90.0))
    assert high - low == 1.0


def test_samples_without_anything_are_refused() -> None:
    with pytest.raises(DataError, match="all 1 sampled tiles are black"):
        grey_range([np.zeros((50, 50), np.uint16)])


def test_stretching_maps_the_range_to_0_and_255_and_clips() -> None:
    image = np.array([[-5.0, 10.0, 20.0, 30.0, 99.0]])
    assert stretch(image, 10.0, 30.0).tolist() == [[0, 0, 128, 255, 255]]


def test_clahe_raises_the_contrast_of_a_flat_image() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(100, 120, (128, 128)).astype(np.uint8)
    assert clahe(image).std() > 2 * image.std()
