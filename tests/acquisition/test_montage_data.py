"""The benchmarks' montages: the same again, and where their truth says."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

Truth = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def make(repository: Path) -> Any:
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        import montage_data
    finally:
        sys.path.pop(0)
    return montage_data.make_dataset


def truth_of(folder: Path) -> Truth:
    return {
        t["file"]: t for t in json.loads((folder / "truth.json").read_text())["tiles"]
    }


def measured_step(a: np.ndarray, b: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Where the corner of b lies in a, near `expected`: a parabola on the peak."""
    whole = np.round(expected).astype(int)
    height, width = np.array(a.shape) - np.abs(whole)
    rows = slice(max(whole[0], 0), max(whole[0], 0) + height)
    columns = slice(max(whole[1], 0), max(whole[1], 0) + width)
    mine = a[rows, columns].astype(float)
    y0, x0 = max(-whole[0], 0), max(-whole[1], 0)
    theirs = b[y0 : y0 + height, x0 : x0 + width].astype(float)
    window = np.outer(np.hanning(height), np.hanning(width))
    cross = np.fft.fft2((theirs - theirs.mean()) * window)
    cross *= np.conj(np.fft.fft2((mine - mine.mean()) * window))
    peak = np.fft.fftshift(np.fft.ifft2(cross).real)
    y, x = (int(n) for n in np.unravel_index(np.argmax(peak), peak.shape))
    around = peak[y - 1 : y + 2, x - 1 : x + 2]
    dy = (around[2, 1] - around[0, 1]) / (
        4 * around[1, 1] - 2 * around[2, 1] - 2 * around[0, 1]
    )
    dx = (around[1, 2] - around[1, 0]) / (
        4 * around[1, 1] - 2 * around[1, 2] - 2 * around[1, 0]
    )
    return whole - np.array([y + dy - height // 2, x + dx - width // 2])


def corner(truth: Truth, name: str) -> np.ndarray:
    return np.array([truth[name]["y_px"], truth[name]["x_px"]])


def name(row: int, column: int) -> str:
    return f"tile_r{row:03d}_c{column:03d}.tif"


@pytest.mark.parametrize("pair", [((0, 1), (0, 2)), ((1, 0), (2, 0)), ((2, 2), (2, 3))])
def test_neighbours_of_the_cheap_set_match_at_their_true_places(
    make: Any, tmp_path: Path, pair: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    folder = make(
        tmp_path, "scale", tiles=(4, 4), tile_px=512, overlap=0.3, jitter_px=9
    )
    truth = truth_of(folder)
    first, second = name(*pair[0]), name(*pair[1])
    expected = corner(truth, second) - corner(truth, first)
    found = measured_step(
        tifffile.imread(folder / first), tifffile.imread(folder / second), expected
    )
    assert found == pytest.approx(expected, abs=0.15)
    assert len(truth) == 16
    assert len({os.stat(folder / file).st_ino for file in truth}) == 4


def test_the_same_parameters_give_the_same_set_and_make_it_once(
    make: Any, tmp_path: Path
) -> None:
    sets = [
        make(tmp_path / part, "A", tiles=(1, 2), tile_px=128, jitter_px=4)
        for part in ("first", "second")
    ]
    for file in ("tiles.csv", "truth.json", name(0, 0), name(0, 1)):
        assert (sets[0] / file).read_bytes() == (sets[1] / file).read_bytes()
    made_at = (sets[0] / name(0, 0)).stat().st_mtime_ns
    make(tmp_path / "first", "A", tiles=(1, 2), tile_px=128, jitter_px=4)
    assert (sets[0] / name(0, 0)).stat().st_mtime_ns == made_at
    make(tmp_path / "first", "A", tiles=(1, 2), tile_px=128, jitter_px=4, seed=2)
    assert (sets[0] / name(0, 0)).stat().st_mtime_ns != made_at


def test_what_is_wrong_with_c_is_reported(make: Any, tmp_path: Path) -> None:
    folder = make(tmp_path, "C", tiles=(4, 4), tile_px=256, jitter_px=4)
    wrong = json.loads((folder / "truth.json").read_text())["wrong"]
    assert not (folder / wrong["missing"]).exists()
    listed = list(csv.DictReader((folder / "tiles.csv").read_text().splitlines()))
    assert len(listed) == 16
    truth = truth_of(folder)
    nominal = {row["file"]: (float(row["y_px"]), float(row["x_px"])) for row in listed}
    off = corner(truth, wrong["jumped"]) - nominal[wrong["jumped"]]
    assert np.hypot(*off) == pytest.approx(60, abs=6)
    left = tifffile.imread(folder / wrong["blank_overlap"][0])
    blank = left[:, -round(256 * 0.12) :].astype(float)
    assert blank.std() < 0.5 * left[:, :100].std()


def test_b_has_a_lens_turned_tiles_and_a_set_to_calibrate_with(
    make: Any, tmp_path: Path
) -> None:
    folder = make(tmp_path, "B", tiles=(2, 2), tile_px=128, jitter_px=4)
    truth = json.loads((folder / "truth.json").read_text())
    assert (
        truth["lens"]
        == json.loads((folder / "lens" / "truth.json").read_text())["lens"]
    )
    turns = [np.degrees(tile["xy"]) for tile in truth["tiles"]]
    assert 0 < np.abs(turns).max() < 0.15
    assert len(list((folder / "lens").glob("*.tif"))) == 9
