import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.frame_paths import complete_body_path, tile_body_path
from em_platform.config import BrokerSettings
from em_platform.messaging.bus import Bus
from em_platform.messaging.topics import fitting
from em_platform.operator.board import Board
from em_platform.operator.shared_board import SharedBoard
from em_platform.operator.snapshot import (
    fill_map,
    find_finished,
    keep,
    restore,
)

ACQUISITION = "m-0001-20261121t120000"


@pytest.fixture
def shared() -> Iterator[SharedBoard]:
    with Bus(BrokerSettings(), "operator") as bus:
        yield SharedBoard(bus, control_timeout_s=60)


def saved(frames: Path, fields: dict[str, Any]) -> Path:
    body = fitting("tile.raw", {**fields, "path": "/f.tiff"}).model_dump_json()
    path = tile_body_path(frames, fields["montage_id"], fields["tile_id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body)
    return path


def shown(shared: SharedBoard) -> list[tuple[int, int]]:
    with shared.locked() as board:
        return sorted(board.map.tiles)


def test_a_map_is_full_again_after_a_restart(
    tmp_path: Path, shared: SharedBoard, of_tile: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "operator/board.json"
    with shared.locked() as board:
        board.map.acquisition_id, board.map.montage_id = ACQUISITION, "m-0001"
        board.map.measured(of_tile(0, 0, focus=0.3), 1)
    keep(shared, path)
    # While the page was away one more tile was imaged.
    saved(tmp_path, of_tile(0, 1))
    board = Board()
    restore(board, path)
    assert board.map.tiles[0, 0].focus == 0.7
    with Bus(BrokerSettings(), "operator") as bus:
        again = SharedBoard(bus, control_timeout_s=60)
        with again.locked() as other:
            restore(other, path)
        fill_map(again, tmp_path)
        assert shown(again) == [(0, 0), (0, 1)]


def test_the_latest_acquisition_of_the_running_montage_is_found(
    tmp_path: Path, shared: SharedBoard, of_tile: Callable[..., dict[str, Any]]
) -> None:
    old = saved(tmp_path, of_tile(5, 5, acquisition="m-0001-20261120t120000"))
    os.utime(old, (1, 1))
    saved(tmp_path, of_tile(0, 0))
    (tmp_path / f"m-0001/{ACQUISITION}_000_001.json").write_text("{")  # cut short
    with shared.locked() as board:
        board.map.montage_id = "m-0001"
    fill_map(shared, tmp_path)
    assert shown(shared) == [(0, 0)]
    with shared.locked() as board:
        assert board.map.acquisition_id == ACQUISITION


@pytest.mark.parametrize("content", ["{", "[]", '{"map": 3}'])
def test_a_memory_that_cannot_be_read_is_passed_over(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "board.json"
    path.write_text(content)
    board = Board()
    restore(board, path)
    assert board.map.tiles == {}


def test_finished_montages_are_found_on_disk(
    tmp_path: Path, shared: SharedBoard
) -> None:
    body = {
        "montage_id": "m-0001",
        "acquisition_id": ACQUISITION,
        "tiles": {"a": {}, "b": {}},
    }
    path = complete_body_path(tmp_path, "m-0001", ACQUISITION)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(body))
    path.with_name("broken.complete.json").write_text("no JSON")
    find_finished(shared, tmp_path)
    with shared.locked() as board:
        (entry,) = board.parts.get("finished")
    assert (entry["acquisition_id"], entry["tiles"]) == (ACQUISITION, 2)
