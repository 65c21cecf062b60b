"""The blending kernels against plain numpy."""

import numpy as np
import pytest

from em_platform.stitching import blend

TILE = np.random.default_rng(3).integers(0, 256, (60, 50), dtype=np.uint8)
VALID = np.array([5, 4, 55, 46])
NO_MASK = np.zeros((0, 0), np.bool_)


def bilinear(tile, y, x):
    """Values at real coordinates, in double precision."""
    r, c = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = y - r, x - c
    r1, c1 = np.minimum(r + 1, tile.shape[0] - 1), np.minimum(c + 1, tile.shape[1] - 1)
    tile = tile.astype(float)
    upper = tile[r, c] * (1 - fx) + tile[r, c1] * fx
    lower = tile[r1, c] * (1 - fx) + tile[r1, c1] * fx
    return upper * (1 - fy) + lower * fy


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, 0.0), (0.0, 0.5), (0.3, 0.7)])
def test_pasting_samples_between_pixels(shift):
    out = np.zeros((40, 40), np.uint8)
    fy, fx = (np.float32(f) for f in shift)
    blend.paste_shifted(out, 2, 3, 30, 25, TILE, 10, 7, fy, fx)
    y, x = np.meshgrid(np.arange(30) + 10 + fy, np.arange(25) + 7 + fx, indexing="ij")
    assert np.abs(out[2:32, 3:28] - bilinear(TILE, y, x)).max() <= 0.5 + 1e-4
    assert out[:2].max() == out[32:].max() == out[:, :3].max() == out[:, 28:].max() == 0


@pytest.mark.parametrize("edge", [(30, 0), (0, 25)])
def test_pasting_does_not_read_beyond_the_tile(edge):
    out = np.zeros((60, 50), np.uint8)
    zero = np.float32(0)
    blend.paste_shifted(out, 0, 0, 60 - edge[0], 50 - edge[1], TILE, *edge, zero, zero)
    assert np.array_equal(
        out[: 60 - edge[0], : 50 - edge[1]], TILE[edge[0] :, edge[1] :]
    )


def sums_of(shift, *, height=30, width=25, y=10, x=7):
    sums = np.zeros((2, height, width))
    fy, fx = (np.float32(f) for f in shift)
    blend.add_shifted(sums[0], sums[1], 0, 0, height, width, TILE, y, x, fy, fx, VALID)
    return sums


def test_the_weight_is_the_distance_to_the_edge_of_the_valid_region():
    _, weight = sums_of((0.0, 0.0), height=50, width=42, y=5, x=4)
    rows = np.minimum(np.arange(50) + 1, 50 - np.arange(50))
    columns = np.minimum(np.arange(42) + 1, 42 - np.arange(42))
    assert np.array_equal(weight, np.minimum(rows[:, None], columns[None, :]))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, 0.7), (0.125, 0.0)])
def test_blending_one_tile_alone_gives_what_pasting_gives(shift):
    pasted, blended = np.zeros((2, 30, 25), np.uint8)
    fy, fx = (np.float32(f) for f in shift)
    blend.paste_shifted(pasted, 0, 0, 30, 25, TILE, 10, 7, fy, fx)
    blend.finish_block(blended, 0, 0, *sums_of(shift), np.uint8(0))
    assert np.array_equal(pasted, blended)


def test_two_tiles_mix_by_their_weights_and_nothing_gives_background():
    total = np.array([[30.0, 0.0], [100.0, 5 * 255.0]])
    weight = np.array([[3.0, 0.0], [8.0, 5.0]])
    out = np.zeros((3, 3), np.uint8)
    blend.finish_block(out, 1, 1, total, weight, np.uint8(77))
    assert out[1:, 1:].tolist() == [[10, 77], [13, 255]]
    assert out[0].max() == out[:, 0].max() == 0


def identity_nodes(shift=(0.0, 0.0)):
    ys = np.arange(0, 96, blend.STEP_PX, dtype=float) + shift[0]
    xs = np.arange(0, 80, blend.STEP_PX, dtype=float) + shift[1]
    return np.stack(np.meshgrid(ys, xs, indexing="ij"))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, 0.75), (4.5, 3.0)])
def test_warping_by_a_shift_gives_what_shifting_gives(shift):
    whole = [int(np.floor(s)) for s in shift]
    fraction = [np.float32(s - w) for s, w in zip(shift, whole, strict=True)]
    sums = np.zeros((2, 30, 25))
    blend.add_warped(
        sums[0], sums[1], 10, 7, TILE, NO_MASK, identity_nodes(shift), VALID
    )
    expected = sums_of(fraction, y=10 + whole[0], x=7 + whole[1])
    assert np.allclose(sums, expected, rtol=1e-5)


def test_warping_samples_where_the_nodes_say():
    angle = np.deg2rad(3)
    y, x = identity_nodes()
    nodes = np.stack(
        [
            6 + y * np.cos(angle) - x * np.sin(angle) + 5,
            5 + y * np.sin(angle) + x * np.cos(angle),
        ]
    )
    sums = np.zeros((2, 40, 35))
    blend.add_warped(sums[0], sums[1], 0, 0, TILE, NO_MASK, nodes, VALID)
    i, j = np.meshgrid(np.arange(40), np.arange(35), indexing="ij")
    y = 6 + i * np.cos(angle) - j * np.sin(angle) + 5
    x = 5 + i * np.sin(angle) + j * np.cos(angle)
    inside = (y >= 5) & (y <= 54) & (x >= 4) & (x <= 45)
    assert np.array_equal(sums[1] > 0, inside)
    values = sums[0][inside] / sums[1][inside]
    assert np.abs(values - bilinear(TILE, y[inside], x[inside])).max() < 1e-3


def test_a_masked_pixel_never_contributes():
    mask = np.ones(TILE.shape, np.bool_)
    mask[20:30, 15:25] = False
    sums = np.zeros((2, 60, 50))
    blend.add_warped(
        sums[0], sums[1], 0, 0, TILE, mask, identity_nodes((0.5, 0.5)), VALID
    )
    unused = sums[1] == 0
    # Half-way between pixels, all four neighbours must be good.
    assert unused[19:30, 14:25].all()
    assert not unused[6:19, 5:44].any()
