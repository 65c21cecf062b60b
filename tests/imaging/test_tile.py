"""The fused pass against the same arithmetic written down plainly."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.errors import DataError
from em_platform.imaging.correct import FlatField
from em_platform.imaging.resample import halve
from em_platform.imaging.tile import ProcessedTile, process_tile
from em_platform.model import Box

RNG = np.random.default_rng(5)


def plain(
    raw: NDArray[np.generic], flat: FlatField | None, low: float, high: float
) -> NDArray[np.float64]:
    grey = raw.astype(np.float64)
    if flat is not None:
        grey = (grey - (0.0 if flat.dark is None else flat.dark)) * flat.gain
    return np.asarray(np.clip((grey - low) * 255.0 / (high - low), 0, 255))


def flat_field(shape: tuple[int, int]) -> FlatField:
    gain = RNG.uniform(0.8, 1.3, shape).astype(np.float32)
    return FlatField(gain=gain, dark=RNG.uniform(90, 110, shape).astype(np.float32))


def assert_consistent(tile: ProcessedTile) -> None:
    """Everything but the image follows from the image."""
    pixels = tile.image
    stats = tile.stats
    assert stats.histogram == tuple(np.bincount(pixels.ravel(), minlength=256))
    assert (stats.minimum, stats.maximum) == (pixels.min(), pixels.max())
    assert stats.mean == pytest.approx(pixels.mean())
    assert stats.std == pytest.approx(pixels.std())
    ends = np.mean((pixels == 0) | (pixels == 255))
    assert stats.saturated_fraction == pytest.approx(ends)
    assert np.array_equal(tile.half, halve(pixels))


@pytest.mark.parametrize("shape", [(64, 64), (65, 67), (1, 9), (30, 1)])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "i2", "f4", "f8", "u1"])
def test_every_type_and_size_gives_what_plain_arithmetic_gives(
    shape: tuple[int, int], dtype: str
) -> None:
    top = 250 if dtype == "u1" else 20000
    raw = RNG.integers(0, top, shape).astype(dtype)
    flat, low, high = flat_field(shape), 0.05 * top, 0.9 * top
    tile = process_tile(raw, tile_id="t", flat_field=flat, grey_range=(low, high))
    difference = tile.image - plain(raw, flat, low, high)
    assert float(np.abs(difference).max()) <= 0.5001
    assert_consistent(tile)


def test_without_a_flat_field_only_the_range_is_mapped() -> None:
    raw = RNG.integers(0, 65535, (50, 70), dtype=np.uint16)
    tile = process_tile(raw, tile_id="t", grey_range=(1000.0, 60000.0))
    difference = tile.image - plain(raw, None, 1000.0, 60000.0)
    assert float(np.abs(difference).max()) <= 0.5001
    assert_consistent(tile)


def test_8_bit_frames_pass_straight_through() -> None:
    raw = RNG.integers(0, 256, (33, 47), dtype=np.uint8)
    tile = process_tile(raw, tile_id="t")
    assert tile.image is raw
    assert_consistent(tile)


def test_16_bit_frames_without_a_range_use_their_own_percentiles() -> None:
    raw = RNG.normal(10000, 1000, (128, 128)).astype(np.uint16)
    raw[3, 3] = 65535
    stats = process_tile(raw, tile_id="t").stats
    assert 120 < stats.mean < 135
    assert 0.0005 < stats.saturated_fraction < 0.01


def test_a_frame_of_one_grey_level_is_no_error() -> None:
    black = process_tile(np.zeros((80, 80), np.uint16), tile_id="t").stats
    assert (black.minimum, black.maximum, black.std, black.focus) == (0, 0, 0.0, 0.0)


def test_only_the_valid_region_counts_in_the_statistics() -> None:
    raw = np.zeros((60, 80), np.uint8)
    raw[11:50, 5:71] = RNG.integers(100, 200, (39, 66))
    box = Box(y0=11, x0=5, y1=50, x1=71)
    stats = process_tile(raw, tile_id="t", valid=box).stats
    inner = raw[11:50, 5:71]
    assert stats.histogram == tuple(np.bincount(inner.ravel(), minlength=256))
    assert stats.saturated_fraction == 0.0
    assert stats.mean == pytest.approx(inner.mean())


def test_read_only_frames_and_memory_maps_are_taken(tmp_path: Path) -> None:
    raw = RNG.integers(0, 9000, (40, 50), dtype=np.uint16)
    path = tmp_path / "frame.raw"
    path.write_bytes(raw.tobytes())
    mapped = np.memmap(path, np.uint16, "r", shape=raw.shape)
    raw.flags.writeable = False
    images = [
        process_tile(frame, tile_id="t", grey_range=(0.0, 9000.0)).image
        for frame in (raw, mapped, raw[::1, ::-1][:, ::-1])
    ]
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])


def test_pixels_that_are_no_number_become_black() -> None:
    raw = np.full((70, 70), 100.0, np.float32)
    raw[0, 0], raw[0, 1], raw[0, 2] = np.nan, np.inf, -np.inf
    tile = process_tile(raw, tile_id="t", grey_range=(0.0, 200.0))
    assert tile.image[0, :4].tolist() == [0, 0, 0, 128]


def test_a_colour_image_is_refused_in_one_sentence() -> None:
    with pytest.raises(DataError, match=r"tile t: the frame has shape \(4, 4, 3\)"):
        process_tile(np.zeros((4, 4, 3), np.uint8), tile_id="t")


def test_a_flat_field_of_another_camera_is_refused() -> None:
    with pytest.raises(
        DataError, match="the frame is 9 x 8 px, the flat field 4 x 4 px"
    ):
        process_tile(
            np.zeros((8, 9), np.uint16), tile_id="t", flat_field=flat_field((4, 4))
        )


def test_kernels_are_cached_where_the_package_is_read_only(
    tmp_path: Path, repository: Path
) -> None:
    """As root a folder is never read-only, so the package's cache folder is a file."""
    source = repository / "em_platform"
    copy = tmp_path / "code" / "em_platform"
    for path in source.rglob("*.py"):
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (copy / "imaging" / "__pycache__").write_text("in the way")
    cache = tmp_path / "cache"
    code = (
        "import numpy as np; from em_platform.imaging.tile import process_tile;"
        "print(process_tile(np.full((64, 64), 7, np.uint8), tile_id='t').stats.mean)"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path / "code",
        env={"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(cache), "HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "7.0", done.stderr
    assert list(cache.rglob("*.nbc"))
