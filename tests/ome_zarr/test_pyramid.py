"""The tree of shards: sizes, order, and that each shard is made once."""

import itertools
from collections import Counter

import numpy as np
import pytest

from em_platform.ome_zarr.pyramid import (
    Unit,
    build,
    count_levels,
    plan_pyramid,
    plan_rounds,
)

SHAPES = [(1, 1), (64, 64), (65, 64), (1301, 999), (63, 5000), (2049, 2047)]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_level_is_half_of_the_one_below_rounded_up(shape):
    pyramid = plan_pyramid(shape, shard_px=256, levels=5)
    for below, above in itertools.pairwise(pyramid.shapes):
        assert above == tuple((length + 1) // 2 for length in below)


@pytest.mark.parametrize(
    ("shape", "levels"), [((1, 1), 1), ((64, 64), 1), ((65, 3), 2), ((1301, 999), 6)]
)
def test_levels_end_where_the_image_fits_into_one_chunk(shape, levels):
    assert count_levels(shape, smallest_px=64) == levels
    pyramid = plan_pyramid(shape, shard_px=256, levels=levels)
    assert max(pyramid.shapes[-1]) <= 64


@pytest.mark.parametrize("shape", [*SHAPES, (9000, 7000)])
def test_every_shard_of_every_level_is_written_once(shape):
    image = np.zeros(shape, np.uint8)
    pyramid = plan_pyramid(
        shape, shard_px=128, levels=count_levels(shape, smallest_px=32)
    )
    written = Counter()
    levels = {}

    def read(level, region):
        return image[region] if level == 0 else levels[level][region]

    def write(level, index, pixels):
        written[level, index] += 1
        region = pyramid.region(level, index)
        levels.setdefault(level, np.empty(pyramid.shapes[level], np.uint8))
        levels[level][region] = pixels

    for units in plan_rounds(pyramid):
        for unit in units:
            build(pyramid, unit, read=read, write=write)

    shards = {
        (level, index)
        for level in range(pyramid.top + 1)
        for index in np.ndindex(pyramid.grid(level))
    }
    assert set(written) == shards
    assert set(written.values()) == {1}


def test_a_level_holds_the_means_of_two_by_two_pixels_of_the_level_below():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (300, 201), dtype=np.uint8)
    pyramid = plan_pyramid(image.shape, shard_px=64, levels=3)
    levels = {k: np.zeros(shape, np.uint8) for k, shape in enumerate(pyramid.shapes)}

    def read(level, region):
        return image[region] if level == 0 else levels[level][region]

    def write(level, index, pixels):
        levels[level][pyramid.region(level, index)] = pixels

    for units in plan_rounds(pyramid):
        for unit in units:
            build(pyramid, unit, read=read, write=write)

    assert np.array_equal(levels[0], image)
    for below, above in ((levels[0], levels[1]), (levels[1], levels[2])):
        height, width = (2 * length for length in above.shape)
        even = np.pad(
            below,
            ((0, height - below.shape[0]), (0, width - below.shape[1])),
            mode="edge",
        ).astype(float)
        means = even.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        assert np.abs(above - means).max() <= 0.5


def test_units_of_one_round_share_no_shard_and_later_rounds_go_on_where_it_ended():
    pyramid = plan_pyramid((100_000, 90_000), shard_px=4096, levels=9)
    rounds = plan_rounds(pyramid)
    assert rounds[0][0].floor == 0
    for earlier, later in itertools.pairwise(rounds):
        assert {unit.root for unit in earlier} == {unit.floor for unit in later}
    assert rounds[-1][-1].root == pyramid.top
    names = [unit.name for units in rounds for unit in units]
    assert len(names) == len(set(names))


def test_walked_depth_first_a_branch_holds_one_shard_a_level():
    pyramid = plan_pyramid((4096, 4096), shard_px=256, levels=5)
    open_shards, most = 0, 0

    def read(level, region):
        nonlocal open_shards, most
        open_shards += 1
        most = max(most, open_shards)
        return np.zeros([part.stop - part.start for part in region], np.uint8)

    def write(level, index, pixels):
        nonlocal open_shards
        open_shards = 0 if level else open_shards

    build(pyramid, Unit(0, 4, (0, 0)), read=read, write=write)
    # Never more than the four leaves of one parent before that parent is written.
    assert most == 4
