from collections.abc import Callable
from typing import Any

import pytest

from em_platform.messaging.topics import topics
from em_platform.operator.board import Board

Receive = Callable[..., None]
OfTile = Callable[..., dict[str, Any]]


def imaged(receive: Receive, fields: dict[str, Any]) -> None:
    receive("tile.raw", path="/frames/one.tiff", **fields)


def test_every_topic_that_the_board_wants_is_one_of_the_bus(board: Board) -> None:
    assert set(board.topics) <= set(topics())


def test_a_montage_fills_tile_by_tile_and_only_changes_are_sent(
    board: Board, receive: Receive, of_tile: OfTile
) -> None:
    receive("montage.status", montage_id="m-0001", state="started", total_tiles=4)
    first = board.changes(0)
    assert first["map"]["anew"] and first["map"]["tiles"] == []
    imaged(receive, of_tile(0, 0))
    receive("tile.statistics.focus", service="pipeline", focus=0.25, **of_tile(0, 0))
    second = board.changes(first["version"])
    assert second["map"]["tiles"] == [[0, 0, 0.75, None, None, 0]]
    assert not second["map"]["anew"]
    imaged(receive, of_tile(0, 1))
    third = board.changes(second["version"])
    assert third["map"]["tiles"] == [[0, 1, None, None, None, 0]]
    assert len(board.changes(0)["map"]["tiles"]) == 2


def test_the_same_message_twice_changes_nothing(
    board: Board, receive: Receive, of_tile: OfTile
) -> None:
    def story() -> None:
        receive("montage.status", montage_id="m-0001", state="started", total_tiles=2)
        imaged(receive, of_tile(0, 0))
        faults = [
            {
                "fault_type": "blur",
                "severity": 1,
                "confidence": 1,
                "scope": "transient",
            }
        ]
        receive("qc.tile", service="qc", passed=False, faults=faults, **of_tile(0, 0))
        receive("qc.status", service="qc", status="GOOD")

    story()
    once = board.changes(0)
    story()
    twice = board.changes(0)
    assert twice["map"] == {**once["map"], "tiles": twice["map"]["tiles"]}
    assert twice["map"]["tiles"] == [[0, 0, None, None, 0, 0]]
    assert twice["parts"]["journal"] == once["parts"]["journal"]


def test_a_second_run_of_a_montage_begins_an_empty_map(
    board: Board, receive: Receive, of_tile: OfTile
) -> None:
    imaged(receive, of_tile(0, 0))
    seen = board.changes(0)["version"]
    again = "m-0001-20261121t130000"
    imaged(receive, of_tile(0, 1, acquisition=again))
    found = board.changes(seen)["map"]
    assert found["anew"]
    assert found["acquisition_id"] == again
    assert [tile[:2] for tile in found["tiles"]] == [[0, 1]]
    # What the pipeline says late of the former run does not come onto this map.
    receive("tile.statistics.focus", focus=0.9, **of_tile(0, 0))
    assert list(board.map.tiles) == [(0, 1)]


def test_a_started_message_that_comes_again_leaves_the_tiles(
    board: Board, receive: Receive, of_tile: OfTile
) -> None:
    started = {"montage_id": "m-0001", "state": "started", "total_tiles": 4}
    receive("montage.status", **started)
    imaged(receive, of_tile(0, 0))
    receive("montage.status", **started)
    assert list(board.map.tiles) == [(0, 0)]


def test_preview_frames_are_shown_and_are_no_tiles_of_a_montage(
    board: Board, receive: Receive, of_tile: OfTile, jpeg: str
) -> None:
    frame = of_tile(0, 0, acquisition="preview", montage="")
    imaged(receive, frame)
    receive("tile.preview", image=jpeg, **frame)
    receive("tile.statistics.min_max_mean", min=1, max=9, mean=5, std=2, **frame)
    newest = board.parts.get("newest")
    assert newest["mean"] == 5
    assert newest["preview_of"] == frame["tile_id"]
    assert board.pictures.get("preview").media_type == "image/jpeg"
    assert not board.map.tiles


def test_the_newest_tile_never_goes_back(
    board: Board, receive: Receive, of_tile: OfTile
) -> None:
    figures = {"min": 1, "max": 9, "std": 2}
    for column in (0, 1):
        imaged(receive, of_tile(0, column))
    receive("tile.statistics.min_max_mean", mean=50, **figures, **of_tile(0, 1))
    receive("tile.statistics.min_max_mean", mean=40, **figures, **of_tile(0, 0))
    assert board.parts.get("newest")["mean"] == 50
    assert board.map.tiles[0, 0].mean == 40


def test_the_quality_of_a_tile_is_its_share_of_found_templates(
    board: Board, receive: Receive, of_tile: OfTile, search: Callable[..., Any]
) -> None:
    imaged(receive, of_tile(1, 1))
    found = [search("top", good=10, tried=10), search("left", good=5, tried=10)]
    receive("tile.template_matches", matches=found, **of_tile(1, 1))
    tile = board.map.tiles[1, 1]
    assert tile.quality == 0.75
    assert tile.neighbours["left"] == {"good": 5, "tried": 10}


def test_the_journal_says_what_stopped_the_microscope(
    board: Board, receive: Receive
) -> None:
    receive("qc.status", service="qc", status="GOOD")
    receive("qc.status", service="qc", status="STOP_NOW", reason="the beam has gone")
    receive("montage.status", montage_id="m-1", state="error", error_message="stopped")
    messages = [entry["text"] for entry in board.parts.get("journal")]
    assert "QC: stop now: the beam has gone" in messages
    assert "Montage m-1 stopped with an error: stopped" in messages


def test_a_device_that_complains_is_about_once(board: Board, receive: Receive) -> None:
    for _ in range(3):
        receive(
            "stage.motion.status",
            x=0,
            y=0,
            in_motion=False,
            calibrated=True,
            error="stuck",
        )
    messages = [entry["text"] for entry in board.parts.get("journal")]
    assert messages == ["stage.motion: stuck"]


@pytest.mark.parametrize(
    ("state", "refused", "allowed"),
    [
        ("Preview_UpdateImage", {"pause", "resume"}, {"start", "auto_focus"}),
        ("Acquisition_Montage_MoveStage", {"start", "auto_focus"}, {"pause"}),
        ("Preview_AutoFocus", {"start", "dark_field"}, set()),
    ],
)
def test_actions_follow_the_state(
    board: Board, receive: Receive, state: str, refused: set[str], allowed: set[str]
) -> None:
    receive("state.current", state=state)
    table = board.parts.get("actions")
    assert refused <= table.keys()
    assert not allowed & table.keys()


def test_services_are_shown_with_when_they_were_last_seen(
    board: Board, receive: Receive
) -> None:
    receive("qc.status", service="qc", status="GOOD", now=7.5)
    assert board.parts.get("services")["qc"] == {
        "host": "here",
        "pid": "7",
        "seen_at": 7,
        "is_steady": True,
    }


def test_a_service_that_waits_for_work_is_not_late(
    board: Board, receive: Receive
) -> None:
    """round3 1.2.8: "montage_fit last seen 3 min 42 s ago" while all was well.

    The page marks what has not sent its steady message, as a device or QC does.
    """
    receive("qc.status", service="qc", status="GOOD", now=7)
    receive("qc.status", service="montage_fit", status="STOP_AT_END", now=8)
    receive("qc.status", service="qc", status="STOP_NOW", now=9)
    services = board.parts.get("services")
    assert services["qc"]["is_steady"] and services["qc"]["seen_at"] == 9
    assert not services["montage_fit"]["is_steady"]


def test_a_finished_montage_is_listed_once(
    board: Board, receive: Receive, of_tile: OfTile
) -> None:
    tile = of_tile(0, 0)
    imaged(receive, tile)
    place = {"raster_index": 0, "stage_position": [0, 0], "raster_position": [0, 0]}
    for _ in range(2):
        receive(
            "montage.complete",
            montage_id="m-0001",
            tiles={tile["tile_id"]: place},
            acquisition_id="m-0001-20261121t120000",
            start_time="2026-11-21T12:00:00Z",
            pixel_size=4.0,
            rotation_angle=0.0,
            aperture_centroid=[0, 0],
        )
    (entry,) = board.parts.get("finished")
    assert entry["tiles"] == 1
    assert entry["outcome"] == "completed"
    assert board.finished.unsettled() == ["m-0001-20261121t120000"]


def test_a_stop_at_end_stays_until_the_operator_goes_on(
    board: Board, receive: Receive
) -> None:
    receive("ui.run", abort_at_end=True)
    assert board.parts.get("stopping") is None  # nothing runs that could stop
    receive("state.current", state="Acquisition_Montage_MoveStage")
    receive("qc.status", service="qc", status="STOP_AT_END", reason="blurred")
    receive("qc.status", service="qc", status="GOOD")
    assert board.parts.get("stopping") == {"why": "blurred"}
    receive("ui.run", resume=True)
    assert board.parts.get("stopping") is None
    receive("ui.run", abort_at_end=True)
    assert board.parts.get("stopping") == {"why": "the operator wants to stop"}
    receive("state.current", state="Preview_UpdateImage")
    assert board.parts.get("stopping") is None


def test_an_error_of_another_montage_does_not_fail_the_one_that_is_shown(
    board: Board, receive: Receive, of_tile: OfTile
) -> None:
    imaged(receive, of_tile(0, 0))
    receive("montage.status", montage_id="m-0002", state="error", error_message="no")
    assert board.parts.get("finished") is None


def test_a_setup_that_was_asked_for_is_logged(board: Board, receive: Receive) -> None:
    receive("ui.setup", auto_focus=True)
    (line,) = board.parts.get("journal")
    assert line["text"] == "Asked for: auto focus"
