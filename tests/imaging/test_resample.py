"""Halving is the mean of 2 x 2 pixels, at any size; labels are never mixed."""

import numpy as np
import pytest

from em_platform.imaging.resample import halve, halve_by_mode, halve_by_nearest


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


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 2), (2, 2, 1), (1, 1, 2)])
def test_extreme_integers_have_exact_means(
    dtype: str, factors: tuple[int, int, int]
) -> None:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    voxels = np.random.default_rng(5).choice(
        np.array([low, low + 1, high - 1, high], dtype), (4, 6, 8)
    )
    z, y, x = (n // f for n, f in zip(voxels.shape, factors, strict=True))
    blocks = voxels.astype(object).reshape(z, factors[0], y, factors[1], x, factors[2])
    count = int(np.prod(factors))
    truth = (2 * blocks.sum(axis=(1, 3, 5)) + count) // (2 * count)
    found = halve(voxels, factors)
    assert found.dtype == voxels.dtype
    assert np.array_equal(found, truth.astype(dtype))


def test_an_axis_of_factor_one_stays_as_it_is() -> None:
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(halve(voxels, (1, 1, 1)), voxels)
    assert np.array_equal(halve(voxels, (2, 1, 1))[0], (voxels[0] + voxels[1] + 1) // 2)


def test_the_commonest_label_wins_and_of_equals_the_first() -> None:
    labels = np.array([[[5, 9, 7, 7], [9, 9, 3, 3]]], np.uint64)
    assert halve_by_mode(labels, (1, 2, 2)).tolist() == [[[9, 7]]]
    assert halve_by_nearest(labels, (1, 2, 2)).tolist() == [[[5, 7]]]
