"""Ids that name files, each given to one acquisition only."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from em_platform.acquisition.frame_paths import (
    acquisition_of,
    checked_frame,
    frame_path,
    reserve_id,
    retry_of,
    tile_name,
)
from em_platform.errors import DataError, DeviceError

NOW = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)


def test_a_run_in_the_same_second_gets_an_id_of_its_own(tmp_path: Path) -> None:
    ids = [reserve_id(tmp_path, "m-0001", NOW) for _ in range(3)]
    stem = "m-0001-20261121t101500"
    assert ids == [stem, f"{stem}a", f"{stem}b"]
    assert reserve_id(tmp_path, "m-0002", NOW) == "m-0002-20261121t101500"


def test_more_runs_in_a_second_than_letters_are_refused(tmp_path: Path) -> None:
    for _ in range(27):
        reserve_id(tmp_path, "m-0001", NOW)
    with pytest.raises(DeviceError, match="27 runs of m-0001 began in one second"):
        reserve_id(tmp_path, "m-0001", NOW)


def test_a_tile_names_its_acquisition() -> None:
    assert acquisition_of(tile_name("m-1-20261121t101500a", 3, 1234)) == (
        "m-1-20261121t101500a"
    )
    assert acquisition_of("a_preview") == "a_preview"


def test_a_frame_that_is_imaged_again_has_an_id_of_its_own_in_its_acquisition() -> None:
    names = [tile_name("m-1-20261121t101500", 2, 7, retry=n) for n in range(3)]
    assert len(set(names)) == 3
    assert {acquisition_of(name) for name in names} == {"m-1-20261121t101500"}
    assert [retry_of(name) for name in names] == [0, 1, 2]
    assert sorted(names) == names
    assert retry_of("a_preview") == 0


@pytest.mark.parametrize("montage_id", ["m1", ""])
def test_the_path_of_the_tiles_own_frame_is_taken(
    tmp_path: Path, montage_id: str
) -> None:
    path = frame_path(tmp_path / "frames", montage_id, "t1")
    assert checked_frame(tmp_path / "frames", str(path), montage_id, "t1") == path
    # Another computer names the same folder by a link of its own.
    path.parent.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "frames")
    assert checked_frame(tmp_path / "link", str(path), montage_id, "t1") == path
    by_link = frame_path(tmp_path / "link", montage_id, "t1")
    assert checked_frame(tmp_path / "frames", str(by_link), montage_id, "t1")


@pytest.mark.parametrize(
    "path",
    [
        "{frames}/m2/t1.tiff",
        "{frames}/m1/t2.tiff",
        "{frames}/m1/t1.json",
        "{frames}/m1/../m2/t1.tiff",
        "{frames}/m1/linked/../../m2/t1.tiff",
        "{frames}/t1.tiff",
        "{frames}/../m1/t1.tiff",
        "/etc/passwd",
        "m1/t1.tiff",
        "http://127.0.0.1/m1/t1.tiff",
        "file://{frames}/m1/t1.tiff",
        "",
    ],
)
def test_the_path_of_another_file_is_refused(tmp_path: Path, path: str) -> None:
    frames = tmp_path / "frames"
    (frames / "m1").mkdir(parents=True)
    with pytest.raises(DataError, match="its message names the frame"):
        checked_frame(frames, path.format(frames=frames), "m1", "t1")


def test_a_link_that_leads_out_of_the_frames_is_refused(tmp_path: Path) -> None:
    frames, outside = tmp_path / "frames", tmp_path / "outside"
    (frames / "m1").mkdir(parents=True)
    outside.mkdir()
    (outside / "t1.tiff").touch()
    (frames / "m1" / "t1.tiff").symlink_to(outside / "t1.tiff")
    (frames / "m2").symlink_to(outside)
    for montage_id in ("m1", "m2"):
        path = frame_path(frames, montage_id, "t1")
        with pytest.raises(DataError, match="its message names the frame"):
            checked_frame(frames, str(path), montage_id, "t1")


@pytest.mark.parametrize("name", ["../m1", "a/b", "a\0b", ".hidden"])
def test_an_id_that_is_no_name_of_a_file_has_no_frame(
    tmp_path: Path, name: str
) -> None:
    for montage_id, tile_id in ((name, "t1"), ("m1", name)):
        with pytest.raises(DataError, match="cannot be a file's name"):
            checked_frame(tmp_path, f"{tmp_path}/m1/t1.tiff", montage_id, tile_id)
