"""Tests of tile images."""

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from em_platform.formats import write_tiff
from em_platform.model import Size
from em_platform.stitching.grid import estimate_pitch, rows_and_columns

SIZE = Size(height_px=1000, width_px=1600)


@pytest.mark.parametrize("lean", [0.0, 0.05, -0.05])
@pytest.mark.parametrize("jitter_px", [0.0, 100.0])
@pytest.mark.parametrize("overlap", [0.05, 0.6])
def test_a_grid_that_jitters_and_leans_is_found(
    lean: float, jitter_px: float, overlap: float
) -> None:
    rng = np.random.default_rng(3)
    rows, columns = np.divmod(rng.permutation(40 * 30), 30)
    down, across = 1000 * (1 - overlap), 1600 * (1 - overlap)
    y = -7e5 + rows * down + lean * columns * across
    x = 3e6 + columns * across - lean * rows * down
    jitter = rng.uniform(-1, 1, (2, 1200)) * jitter_px * (1 - overlap)
    found_rows, found_columns = rows_and_columns(
        y + jitter[0], x + jitter[1], size=SIZE
    )
    assert np.array_equal(found_rows, rows)
    assert np.array_equal(found_columns, columns)


def test_holes_and_islands_keep_the_numbers_of_the_grid() -> None:
    rows, columns = np.divmod(np.arange(100), 10)
    there = (rows < 3) | (rows > 6) | (columns == 0) & (rows != 5)
    there &= (rows != 1) | (columns != 4)
    rows, columns = rows[there], columns[there]
    found = rows_and_columns(rows * 900.0, columns * 1450.0, size=SIZE)
    assert np.array_equal(found[0], rows)
    assert np.array_equal(found[1], columns)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (6, 1), (2, 2)])
def test_small_grids_are_grids(rows: int, columns: int) -> None:
    row, column = np.divmod(np.arange(rows * columns), columns)
    found = rows_and_columns(row * 880.0 + 12, column * 1410.0 - 5, size=SIZE)
    assert np.array_equal(found[0], row)
    assert np.array_equal(found[1], column)


def test_every_other_tile_of_a_row_is_still_one_step_when_there_is_no_closer() -> None:
    found = rows_and_columns(np.zeros(3), np.array([0.0, 5000.0, 10000.0]), size=SIZE)
    assert found[0].tolist() == [0, 0, 0]
    assert np.diff(found[1]).min() >= 1


HEIGHT, WIDTH = 400, 600
TILE_SIZE = Size(height_px=HEIGHT, width_px=WIDTH)


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
    found = estimate_pitch(grid, size=TILE_SIZE, options={})
    assert found == pytest.approx((down, across), abs=10)


def test_one_row_tells_the_overlap_of_both_directions(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, down=320, across=480)
    row = {place: uri for place, uri in grid.items() if place[0] == 1}
    found = estimate_pitch(row, size=TILE_SIZE, options={})
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
        assert estimate_pitch(grid, size=TILE_SIZE, options={}) == (360, 540)
    assert "10 % is assumed; give --overlap" in caplog.text
