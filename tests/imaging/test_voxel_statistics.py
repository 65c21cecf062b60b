"""Statistics of a volume do not depend on how it was cut or in which order."""

import itertools

import numpy as np
import pytest

from em_platform.imaging.voxel_statistics import Measured, measured_of, statistics_of

RNG = np.random.default_rng(5)
INTEGERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]


def volume(dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return RNG.normal(3000.0, 20.0, (12, 20, 15)).astype(dtype)
    return RNG.integers(
        np.iinfo(dtype).min, np.iinfo(dtype).max, (12, 20, 15), dtype, endpoint=True
    )


def measured(voxels, edge=8, *, order=1):
    """Each shard of that edge by itself, then all joined in an order."""
    starts = [range(0, length, edge) for length in voxels.shape]
    whole = Measured()
    for z, y, x in list(itertools.product(*starts))[::order]:
        one = Measured()
        part = voxels[z : z + edge, y : y + edge, x : x + edge]
        one.add((z // edge, y // edge, x // edge), np.ascontiguousarray(part), first=z)
        whole.join(measured_of(one.to_json()))
    return whole


@pytest.mark.parametrize("dtype", [*INTEGERS, "f4", "f8"])
def test_they_are_those_of_the_whole_volume(dtype):
    voxels = volume(dtype)
    found = statistics_of(measured(voxels), voxels.shape, voxels.dtype)
    assert found.minimum == float(voxels.min())
    assert found.maximum == float(voxels.max())
    assert found.mean == pytest.approx(voxels.mean(dtype=np.float64), rel=1e-12)
    assert found.std == pytest.approx(voxels.std(dtype=np.float64), rel=1e-8)
    low, high = found.histogram_range
    counts, _ = np.histogram(voxels.astype(np.float64), 256, (low, high))
    if dtype not in ("u8", "i8"):  # of which a double has not all digits
        assert found.histogram == tuple(counts)
    assert sum(found.histogram) == voxels.size


@pytest.mark.parametrize("dtype", ["u1", "i2", "u8", "f4", "f8"])
def test_the_order_of_shards_changes_nothing(dtype):
    voxels = volume(dtype)
    forth, back = (measured(voxels, order=order) for order in (1, -1))
    assert statistics_of(forth, voxels.shape, voxels.dtype) == statistics_of(
        back, voxels.shape, voxels.dtype
    )


@pytest.mark.parametrize(
    ("dtype", "first", "last"), [("u1", 0.0, 256.0), ("i1", -128.0, 128.0)]
)
def test_eight_bits_have_a_bin_for_each_grey_level(dtype, first, last):
    voxels = np.full((2, 4, 4), 7, dtype)
    found = statistics_of(measured(voxels), voxels.shape, voxels.dtype)
    assert found.histogram_range == (first, last)
    assert found.histogram[7 - int(first)] == 32


def test_bins_are_as_narrow_as_hold_all_grey_levels():
    voxels = np.array([-3, 1000, 1020, 1021], np.int16).reshape(1, 2, 2)
    found = statistics_of(measured(voxels, 1), voxels.shape, voxels.dtype)
    width = (found.histogram_range[1] - found.histogram_range[0]) / 256
    assert width == 8.0
    assert found.histogram[0] == 1
    assert sum(found.histogram) == 4


def test_shards_of_different_brightness_share_one_histogram():
    voxels = np.zeros((2, 8, 8), np.float32)
    voxels[1] = 1e30
    voxels[0, 0, 0] = -1e-20
    found = statistics_of(measured(voxels, 4), voxels.shape, voxels.dtype)
    assert (found.minimum, found.maximum) == (
        float(np.float32(-1e-20)),
        float(np.float32(1e30)),
    )
    assert sum(found.histogram) == 128
    assert max(found.histogram) == 64


def test_sections_of_one_value_are_blank():
    voxels = volume("u2")
    voxels[3] = 9
    voxels[7] = 0
    voxels[8, 0, 0] = voxels[8, 1:] = voxels[8, 0, 1:] = 5
    voxels[8, 19, 14] = 6  # one voxel differs
    found = statistics_of(measured(voxels, 5), voxels.shape, voxels.dtype)
    assert found.blank_sections == (3, 7)


def test_what_is_not_a_number_is_left_out():
    voxels = volume("f4")
    voxels[2] = np.nan
    voxels[4, 3, 3] = np.inf
    found = statistics_of(measured(voxels), voxels.shape, voxels.dtype)
    finite = voxels[np.isfinite(voxels)].astype(np.float64)
    assert found.mean == pytest.approx(finite.mean())
    assert (found.minimum, found.maximum) == (finite.min(), finite.max())
    assert sum(found.histogram) == finite.size
    assert found.blank_sections == (2,)


def test_nothing_but_nan_has_statistics_of_zero():
    voxels = np.full((3, 4, 4), np.nan, np.float32)
    found = statistics_of(measured(voxels), voxels.shape, voxels.dtype)
    assert (found.mean, found.std, sum(found.histogram)) == (0.0, 0.0, 0)


def test_one_voxel_shape_or_type_more_is_another_content():
    voxels = volume("u1")
    other = voxels.copy()
    other[-1, -1, -1] ^= 1
    names = {
        statistics_of(measured(v), v.shape, v.dtype).content_sha256
        for v in (voxels, other, voxels.view(np.int8), voxels[:-1])
    }
    assert len(names) == 4
    again = statistics_of(measured(voxels), voxels.shape, voxels.dtype)
    assert again.content_sha256 in names
