"""Known vignettes must be found again; frames without specimen must come out even."""

import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.errors import DataError
from em_platform.imaging.correct import estimate_flat_field, flat_field_from_frames

SIDE = 256
Float = NDArray[np.float64]


def shading() -> Float:
    """A vignette off the middle, 25 % deep."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    field = 1.0 - 0.25 * ((y - 0.2) ** 2 + (x + 0.1) ** 2) / 2.65 + 0.02 * x
    return np.asarray(field / field.mean())


def tiles(count: int, *, seed: int = 0, field: Float | None = None) -> list[Float]:
    """Bright cells with dark blobs of all sizes; each tile has its own brightness."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        tissue = np.full((SIDE + 60, SIDE + 60), 8000.0)
        for _ in range(600):
            y, x = rng.integers(0, SIDE + 60, 2)
            size = int(rng.integers(3, 25))
            tissue[y : y + size, x : x + size] *= rng.uniform(0.8, 1.1)
        tissue = tissue[30:-30, 30:-30] + rng.normal(0, 300, (SIDE, SIDE))
        made.append(tissue * rng.uniform(0.9, 1.1) * (1.0 if field is None else field))
    return made


def as_frames(images: list[Float]) -> list[NDArray[np.uint16]]:
    return [image.clip(0, 65535).astype(np.uint16) for image in images]


def error(gain: NDArray[np.float32], field: Float) -> float:
    left = gain * field
    return float(np.sqrt(np.mean((left / left.mean() - 1.0) ** 2)))


@pytest.mark.parametrize(("count", "allowed"), [(25, 0.006), (6, 0.012), (3, 0.015)])
def test_a_known_vignette_is_found_from_the_tiles(count: int, allowed: float) -> None:
    field = shading()
    assert error(np.ones((SIDE, SIDE), np.float32), field) > 0.04
    found = estimate_flat_field(as_frames(tiles(count, field=field)))
    assert found.dark is None
    assert found.gain.dtype == np.float32
    assert found.gain.mean() == pytest.approx(1.0, abs=1e-4)
    assert error(found.gain, field) < allowed


def test_even_tiles_are_left_almost_as_they_are() -> None:
    found = estimate_flat_field(as_frames(tiles(9)))
    assert float(found.gain.std()) < 0.006


def test_black_frames_and_black_tiles_do_not_count() -> None:
    field = shading()
    framed = as_frames(tiles(25, field=field))
    for tile in framed:
        tile[:20] = tile[-24:] = 0
        tile[:, :16] = tile[:, -28:] = 0
    framed.append(np.zeros_like(framed[0]))
    found = estimate_flat_field(framed)
    inner = np.s_[24:-28, 20:-32]
    assert error(found.gain[inner], field[inner]) < 0.008
    assert 0.7 < found.gain.min() < found.gain.max() < 1.4


def test_a_fold_in_one_tile_does_not_bend_the_field() -> None:
    field = shading()
    clean = as_frames(tiles(12, field=field))
    folded = [tile.copy() for tile in clean]
    folded[3][:, 100:160] //= 10
    difference = estimate_flat_field(folded).gain - estimate_flat_field(clean).gain
    assert float(np.sqrt(np.mean(difference**2))) < 0.004


def test_tiles_that_show_nothing_are_refused_in_one_sentence() -> None:
    black = np.zeros((SIDE, SIDE), np.uint16)
    with pytest.raises(DataError, match="none of 2 tiles shows anything"):
        estimate_flat_field([black, black])


def test_tiles_of_two_sizes_are_refused() -> None:
    one, other = as_frames(tiles(2))
    with pytest.raises(DataError, match="differ in size"):
        estimate_flat_field([one, other[:-1]])


def test_acquired_frames_make_their_own_bright_frame_even() -> None:
    field = shading().astype(np.float32)
    dark = np.random.default_rng(0).normal(100, 2, (SIDE, SIDE)).astype(np.float32)
    bright = np.stack([20000 * field + dark, 20200 * field + dark])
    flat = flat_field_from_frames(bright, dark)
    assert flat.dark is not None
    even = (bright[0] - flat.dark) * flat.gain
    assert float(even.std() / even.mean()) < 1e-5
    assert float(flat.gain.mean()) == pytest.approx(1.0, abs=0.01)


def test_a_dead_pixel_keeps_its_gain() -> None:
    bright = np.full((8, 8), 1000.0, np.float32)
    bright[2, 3] = 0.0
    flat = flat_field_from_frames(bright)
    assert flat.gain[2, 3] == 1.0
    assert np.isfinite(flat.gain).all()


def test_exchanged_or_unequal_frames_are_refused() -> None:
    bright, dark = np.full((8, 8), 1000.0), np.full((8, 8), 100.0)
    with pytest.raises(DataError, match="check that they are not exchanged"):
        flat_field_from_frames(dark, bright)
    with pytest.raises(DataError, match="bright frame 8 x 8 px, dark frame 8 x 4 px"):
        flat_field_from_frames(bright, dark[:4])
