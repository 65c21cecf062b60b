"""Halving is the mean of 2 x 2 pixels, at any size."""

import numpy as np
import pytest

from em_platform.imaging.resample import halve


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize(
    "shape", [(64, 48), (64, 47), (63, 48), (63, 47), (1, 5), (5, 1), (2, 1), (1, 1)]
)
def test_each_pixel_is_the_mean_of_those_below_it(
    shape: tuple[int, int], dtype: str
) -> None:
    top = np.iinfo(dtype).max
    image = np.random.default_rng(3).integers(0, top, shape).astype(dtype)
    pad = [(0, shape[0] % 2), (0, shape[1] % 2)]
    even = np.pad(image, pad, mode="edge").astype(int)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    half = halve(image)
    assert half.dtype == image.dtype
    assert np.array_equal(half, (total + 2) // 4)


def test_a_part_of_a_larger_image_is_taken_as_it_is() -> None:
    image = np.random.default_rng(4).integers(0, 255, (40, 60), dtype=np.uint8)
    part = image[3:23, 7:37]
    assert np.array_equal(halve(part), halve(part.copy()))
