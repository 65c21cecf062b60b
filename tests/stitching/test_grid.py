import numpy as np
import pytest

from em_platform.model import Size
from em_platform.stitching.grid import rows_and_columns

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
