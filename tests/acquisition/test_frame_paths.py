"""Ids that name files, each given to one acquisition only."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from em_platform.acquisition.frame_paths import (
    acquisition_of,
    reserve_id,
    retry_of,
    tile_name,
)
from em_platform.errors import DeviceError

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
