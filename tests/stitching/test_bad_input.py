import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from em_platform.cli import main
from em_platform.formats import level_count, open_level, write_tiff
from tests.small_disk import enlarge, small_disk

Truth = dict[str, tuple[int, int]]
Spoil = Callable[[Path], None]


def stitch(folder: Path, target: Path, *more: str) -> tuple[int, dict[str, Any]]:
    report = target.with_suffix(".json")
    arguments = [str(folder), "--output", str(target), "--report", str(report), *more]
    try:
        main(["stitch", *arguments])
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    return status, json.loads(report.read_text()) if report.exists() else {}


def worst_px(report: dict[str, Any], truth: Truth) -> float:
    """How far the worst tile lies from its true place, all moved as one."""
    found = np.array([(t["y_px"], t["x_px"]) for t in report["tiles"]])
    expected = np.array([truth[t["file"]] for t in report["tiles"]])
    off = found - expected
    return float(np.abs(off - np.median(off, axis=0)).max())


def edit_list(folder: Path, old: str, new: str) -> None:
    path = folder / "tiles.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(new if old in x else x for x in lines) + "\n")


def cut_short(folder: Path) -> None:
    path = folder / "r1c2.tif"
    path.write_bytes(path.read_bytes()[:20_000])


def empty(folder: Path) -> None:
    (folder / "r1c2.tif").write_bytes(b"")


def smaller(folder: Path) -> None:
    write_tiff(folder / "r1c2.tif", np.ones((100, 240), np.uint8))


def deeper(folder: Path) -> None:
    write_tiff(folder / "r1c2.tif", np.ones((240, 240), np.uint16))


def no_place(folder: Path) -> None:
    edit_list(folder, "r1c2.tif", "r1c2.tif,NaN,145")


def no_number(folder: Path) -> None:
    edit_list(folder, "r1c2.tif", "r1c2.tif,,far")


def deleted(folder: Path) -> None:
    (folder / "r1c2.tif").unlink()


def black(folder: Path) -> None:
    write_tiff(folder / "r1c2.tif", np.zeros((240, 240), np.uint8))


def blank(folder: Path) -> None:
    write_tiff(folder / "r1c2.tif", np.full((240, 240), 200, np.uint8))


def not_an_image(folder: Path) -> None:
    (folder / "r1c2.tif").write_text("moved to the archive")


def coloured(folder: Path) -> None:
    tifffile.imwrite(folder / "r1c2.tif", np.zeros((240, 240, 3), np.uint8))


def bad_inside(folder: Path) -> None:
    """Right at both ends, so that only decoding shows it."""
    path = folder / "r1c2.tif"
    grain = np.random.default_rng(0).integers(0, 255, (240, 240), np.uint8)
    tifffile.imwrite(path, grain, compression="zlib")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(bytes(content))


def far_away(folder: Path) -> None:
    edit_list(folder, "r1c2.tif", "r1c2.tif,1e6,145")


def at_the_end_of_floats(folder: Path) -> None:
    edit_list(folder, "r1c2.tif", "r1c2.tif,1e300,145")


def listed_mask(folder: Path, mask: str) -> None:
    path = folder / "tiles.csv"
    lines = [f"{line}," for line in path.read_text().splitlines()]
    lines[0] += "mask"
    path.write_text("\n".join(x + mask * ("r1c2" in x) for x in lines) + "\n")


def odd_mask(folder: Path) -> None:
    write_tiff(folder / "mask.tif", np.full((480, 480), 255, np.uint8))
    listed_mask(folder, "mask.tif")


def lost_mask(folder: Path) -> None:
    listed_mask(folder, "gone.tif")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (odd_mask, "mask.tif: found a mask of 480 x 480 px, expected 240 x 240"),
        (far_away, "tile r1c2.tif: found at x = 1e+06, y = 145 px, far from all"),
        (at_the_end_of_floats, "tile r1c2.tif: found place x = 1e+300, y = 145.0"),
        (lost_mask, "gone.tif: found no such file"),
        (cut_short, "r1c2.tif: truncated TIFF, found 20000 bytes"),
        (empty, "r1c2.tif: found 0 bytes, expected content"),
        (smaller, "tile r1c2.tif: found 240 x 100 px, expected 240 x 240"),
        (deeper, "tile r1c2.tif: found uint16, expected uint8"),
        (no_place, "tile r1c2.tif: found place x = nan, y = 145.0"),
        (no_number, "tile r1c2.tif: found place x = nan, y = nan"),
        (deleted, "r1c2.tif: found no such file"),
        (black, "tile r1c2.tif: found all pixels black, expected specimen"),
        (blank, "tile r1c2.tif: found all pixels of grey 200, expected specimen"),
        (not_an_image, "r1c2.tif: found a file that starts with b'move'"),
        (coloured, "r1c2.tif: found 3 samples a pixel, expected one grey level"),
        (bad_inside, "r1c2.tif: cannot be decoded"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_bad_tile_is_one_recorded_sentence_and_the_rest_is_stitched(
    tmp_path: Path,
    cut_tiles: Callable[..., Truth],
    capsys: pytest.CaptureFixture[str],
    spoil: Spoil,
    sentence: str,
) -> None:
    truth = cut_tiles(tmp_path / "in")
    spoil(tmp_path / "in")
    status, report = stitch(tmp_path / "in", tmp_path / "x.zarr")
    assert status == 2
    (failure,) = report["failures"]
    assert failure["item"] == "r1c2.tif"
    assert sentence in failure["sentence"]
    assert failure["sentence"] in capsys.readouterr().out
    assert {t["file"] for t in report["tiles"]} == truth.keys() - {"r1c2.tif"}
    assert worst_px(report, truth) < 0.5
    complete = {check["name"]: check for check in report["checks"]}
    assert not complete["montage_is_complete"]["passed"]
    assert "r1c2.tif" in complete["montage_is_complete"]["sentence"]
    height, width = open_level(str(tmp_path / "x.zarr"), 0).shape
    assert (height, width) == pytest.approx((520, 520), abs=2)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("r1c2.tif,270,145", "duplicate tile r1c2.tif: found twice"),
        ("copy.tif,270,145", "duplicate tile copy.tif: found at the place of r1c2.tif"),
    ],
)
def test_a_tile_listed_twice_is_used_once(
    tmp_path: Path, cut_tiles: Callable[..., Truth], line: str, sentence: str
) -> None:
    truth = cut_tiles(tmp_path / "in")
    edit_list(tmp_path / "in", "r1c2.tif", f"r1c2.tif,270,145\n{line}")
    (tmp_path / "in/copy.tif").write_bytes((tmp_path / "in/r1c2.tif").read_bytes())
    status, report = stitch(tmp_path / "in", tmp_path / "x.zarr")
    assert status == 2
    (failure,) = report["failures"]
    assert sentence in failure["sentence"]
    assert {t["file"] for t in report["tiles"]} == truth.keys()
    assert worst_px(report, truth) < 0.5


def test_many_bad_tiles_are_each_named(
    tmp_path: Path, cut_tiles: Callable[..., Truth]
) -> None:
    truth = cut_tiles(tmp_path / "in")
    (tmp_path / "in/r0c0.tif").write_bytes(b"")
    (tmp_path / "in/r2c0.tif").unlink()
    black(tmp_path / "in")
    status, report = stitch(tmp_path / "in", tmp_path / "x.zarr")
    assert status == 2
    items = sorted(failure["item"] for failure in report["failures"])
    assert items == ["r0c0.tif", "r1c2.tif", "r2c0.tif"]
    assert len(report["tiles"]) == 6
    assert worst_px(report, truth) < 0.5


def test_nothing_that_can_be_used_is_status_1_and_no_mosaic(
    tmp_path: Path, cut_tiles: Callable[..., Truth], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in cut_tiles(tmp_path / "in"):
        write_tiff(tmp_path / "in" / name, np.zeros((240, 240), np.uint8))
    status, report = stitch(tmp_path / "in", tmp_path / "x.zarr")
    assert status == 1
    assert report["tiles"] == []
    (failure,) = report["failures"]
    assert "none of its 9 tiles shows anything" in failure["sentence"]
    assert failure["sentence"] in capsys.readouterr().err
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize("pixel_nm", ["1e-3", "1e-9", "0", "-4", "nan", "inf"])
def test_a_wrong_pixel_size_is_found_before_anything_is_written(
    tmp_path: Path,
    cut_tiles: Callable[..., Truth],
    capsys: pytest.CaptureFixture[str],
    pixel_nm: str,
) -> None:
    cut_tiles(tmp_path / "in")
    path = tmp_path / "in/tiles.csv"
    path.write_text(path.read_text().replace("_px", "_nm").replace(",28", ",2800000"))
    status, _ = stitch(tmp_path / "in", tmp_path / "x.zarr", "--pixel-nm", pixel_nm)
    assert status == 1
    assert "pixel" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "x.json"]


def test_pixels_that_are_no_numbers_leave_the_others(
    tmp_path: Path, cut_tiles: Callable[..., Truth]
) -> None:
    truth = cut_tiles(tmp_path / "in", dtype="float32")
    for name in truth:
        image = tifffile.imread(tmp_path / "in" / name)
        image[100:120, 30:60] = np.nan
        image[5, 5] = np.inf
        tifffile.imwrite(tmp_path / "in" / name, image)
    status, report = stitch(tmp_path / "in", tmp_path / "x.zarr")
    assert status == 0
    assert worst_px(report, truth) < 0.5


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["--set", "stitching.match.search=3"],
            "unknown setting stitching.match.search",
        ),
        (["--set", "search"], "no '=' found"),
        (["--overlap", "much"], "--overlap much: a percentage below 100 or"),
        (["--lens", "none.json"], "--lens none.json: cannot be read as a lens model"),
        (["--nonsense"], "No such option"),
        (["--workers", "100000"], "workers: found 100000, expected at most"),
        (["--workers", "0"], "Invalid value for '--workers'"),
    ],
)
def test_wrong_options_are_status_1_and_one_sentence(
    tmp_path: Path,
    cut_tiles: Callable[..., Truth],
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    sentence: str,
) -> None:
    cut_tiles(tmp_path / "in")
    status, _ = stitch(tmp_path / "in", tmp_path / "x.zarr", *more)
    assert status == 1
    assert sentence in capsys.readouterr().err


def test_an_unsupported_file_is_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.docx").write_bytes(b"PK\x03\x04")
    status, _ = stitch(tmp_path / "notes.docx", tmp_path / "x.zarr")
    assert status == 1
    assert "notes.docx is not a list of tiles, expected" in capsys.readouterr().err


@pytest.mark.system
def test_an_unreadable_folder_is_status_1(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    folder.chmod(0)
    program = "from em_platform.cli import main; main()"
    target = ["--output", str(tmp_path / "x.zarr")]
    command = [sys.executable, "-c", program, "stitch", str(folder), *target]
    if os.getuid() == 0:
        # Root can read every folder unless these two powers are taken from it.
        if shutil.which("setpriv") is None:
            pytest.skip("root can read every folder, and there is no setpriv")
        powers = "--bounding-set=-dac_override,-dac_read_search"
        command = ["setpriv", powers, "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    folder.chmod(0o755)
    assert done.returncode == 1
    assert f"{folder} could not be read (Permission denied)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64k") as disk:
        yield disk


def test_a_full_disk_is_status_1_leaves_nothing_and_a_second_run_goes_on(
    tmp_path: Path,
    cut_tiles: Callable[..., Truth],
    disk: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut_tiles(tmp_path / "in")
    target = disk / "x.zarr"
    status, report = stitch(tmp_path / "in", target)
    assert status == 1
    assert [each["error"] for each in report["failures"]] == ["StorageError"]
    output = capsys.readouterr().err
    assert "No space left on device" in output
    assert "free space" in output
    assert not target.exists()
    enlarge(disk, "64m")
    status, report = stitch(tmp_path / "in", target)
    assert status == 0
    assert len(report["tiles"]) == 9
    assert level_count(str(target)) >= 1
