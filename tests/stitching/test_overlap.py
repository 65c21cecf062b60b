import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from em_platform.formats import write_tiff
from em_platform.model import Size
from em_platform.stitching.overlap import estimate_pitch

HEIGHT, WIDTH = 400, 600
SIZE = Size(height_px=HEIGHT, width_px=WIDTH)


def texture(height: int, width: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(2)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), None, 3.0)
    return 128 + 40 * grain / grain.std()


def write_grid(
    folder: Path, *, down: int, across: int, frame_px: int = 0
) -> dict[tuple[int, int], str]:
    specimen = texture(2 * down + HEIGHT + 40, 2 * across + WIDTH + 40)
    rng = np.random.default_rng(4)
    grid = {}
    for row in range(3):
        for column in range(3):
            y, x = row * down + rng.integers(0, 9), column * across + rng.integers(0, 9)
            tile = specimen[y : y + HEIGHT, x : x + WIDTH]
            tile = tile + rng.normal(0, 8, tile.shape)
            tile *= np.linspace(0.8, 1.2, WIDTH)
            if frame_px:
                inner = np.zeros_like(tile)
                cut = np.s_[frame_px:-frame_px, frame_px:-frame_px]
                inner[cut] = tile[cut]
                tile = inner
            grid[row, column] = str(folder / f"{row}_{column}.tif")
            write_tiff(Path(grid[row, column]), np.clip(tile, 0, 255).astype(np.uint8))
    return grid


@pytest.mark.parametrize(
    ("down", "across", "frame_px"),
    [(340, 510, 0), (160, 240, 0), (376, 552, 0), (340, 510, 12), (160, 240, 12)],
)
def test_the_pitch_is_found_in_spite_of_noise_shading_and_frame(
    tmp_path: Path, down: int, across: int, frame_px: int
) -> None:
    grid = write_grid(tmp_path, down=down, across=across, frame_px=frame_px)
    found = estimate_pitch(grid, size=SIZE, options={})
    assert found == pytest.approx((down, across), abs=10)


def test_one_row_tells_the_overlap_of_both_directions(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, down=320, across=480)
    row = {place: uri for place, uri in grid.items() if place[0] == 1}
    found = estimate_pitch(row, size=SIZE, options={})
    assert found == pytest.approx((320, 480), abs=10)


def test_tiles_that_share_nothing_get_a_tenth_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = {}
    for column in range(4):
        grid[0, column] = str(tmp_path / f"{column}.tif")
        rng = np.random.default_rng(column)
        noise = rng.integers(0, 255, (HEIGHT, WIDTH), np.uint8)
        write_tiff(Path(grid[0, column]), noise)
    (tmp_path / "3.tif").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert estimate_pitch(grid, size=SIZE, options={}) == (360, 540)
    assert "10 % is assumed; give --overlap" in caplog.text
