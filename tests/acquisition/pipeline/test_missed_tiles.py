"""Tiles on disk of which no message reached the pipeline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.pipeline.journal import Journal
from em_platform.acquisition.pipeline.missed_tiles import missed_tiles


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return tmp_path / "frames"


def test_old_montages_are_not_done_again_by_a_new_journal(
    frames: Path, tmp_path: Path, image_montage: Callable[..., list[Any]]
) -> None:
    imaged = image_montage(frames, rows=1, columns=3)
    journal = Journal(tmp_path / "new")
    assert [t.place for t in missed_tiles(frames, journal)] == [(0, 0), (0, 1), (0, 2)]
    (frames / "m-1" / "m-1-20260102t030405.complete.json").write_text("{}")
    first = Path(imaged[0].body["path"])
    first.with_suffix(".processed.tiff").write_bytes(first.read_bytes())
    assert [t.place for t in missed_tiles(frames, journal)] == [(0, 1), (0, 2)]


def test_what_is_no_body_is_passed_over(
    frames: Path, tmp_path: Path, image_montage: Callable[..., list[Any]]
) -> None:
    image_montage(frames, rows=1, columns=2)
    (frames / "m-1" / "m-1-20260102t030405_000_000.json").write_text(
        json.dumps({"tile_id": 1})
    )
    (frames / "m-1" / "m-1-20260102t030405.truth.json").write_text("{}")
    found = missed_tiles(frames, Journal(tmp_path / "new"))
    assert [tile.place for tile in found] == [(0, 1)]
