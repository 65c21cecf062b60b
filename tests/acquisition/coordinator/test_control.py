"""What the operator and quality control say is done at once, and nothing is lost."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from em_platform.acquisition.frame_paths import (
    acquisition_of,
    frames_folder,
    retry_of,
    tile_body_path,
)
from em_platform.config import Settings
from em_platform.simulation.devices.commanded import clear_faults, set_faults

BIG = (5, 5)


def begin(operator: Any, name: str = "m-1") -> None:
    """Start a session of 25 tiles and wait for the third of them."""
    operator.queue(name, *BIG)
    operator.run("start")
    operator.wait("montage.status", lambda m: m.current_tile >= 3)


def tiles(operator: Any, montage_id: str = "m-1") -> list[str]:
    return [r.tile_id for r in operator.all("tile.raw") if r.montage_id == montage_id]


def test_a_pause_rests_after_the_tile_and_resume_goes_on(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    begin(operator)
    operator.run("pause")
    paused = operator.wait_montage("paused")
    assert 3 <= paused.current_tile < 25
    operator.wait_state("Acquisition_Montage_Paused")
    mark = operator.mark()
    operator.wait("roi.queue.status", lambda _: True, since=mark)  # two seconds or so
    assert operator.all("tile.raw", since=mark) == []
    assert operator.all("stage.motion.command", since=mark) == []
    operator.run("resume")
    operator.wait_montage("completed")
    assert len(tiles(operator)) == len(set(tiles(operator))) == 25
    states = [m.state.value for m in operator.all("montage.status")]
    assert states.count("paused") == states.count("resumed") == 1
    statuses = ["pending", "active", "paused", "active", "complete"]
    operator.wait("roi.queue.status", lambda m: m.completed_count == 1)
    assert operator.statuses("m-1") == statuses


def test_abort_now_gives_the_region_up_and_keeps_the_queue(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", *BIG)
    operator.queue("m-2", 1, 1)
    operator.run("start")
    operator.wait("montage.status", lambda m: m.current_tile >= 3)
    operator.run("abort_now")
    cancelled = operator.wait_montage("cancelled", "m-1")
    assert 3 <= cancelled.current_tile < 25
    operator.wait_state("Preview", since=operator.mark())
    assert operator.all("montage.complete") == []
    assert operator.all("scope.command")[-1].screen == "down"
    queue = operator.wait(
        "roi.queue.status", lambda m: m.active_montage_id is None, since=operator.mark()
    )
    assert [e.status.value for e in queue.queue] == ["aborted", "pending"]
    operator.run("start")
    operator.wait_montage("completed", "m-2")
    assert operator.all("scope.command")[-1].screen == "up"


def test_abort_at_end_finishes_the_montage_and_keeps_the_queue(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", *BIG)
    operator.queue("m-2", 1, 1)
    operator.run("start")
    operator.wait("montage.status", lambda m: m.current_tile >= 3)
    operator.run("abort_at_end")
    operator.wait_montage("completed", "m-1")
    mark = operator.mark()
    operator.wait_state("Preview", since=mark)
    assert len(tiles(operator)) == 25
    assert tiles(operator, "m-2") == []
    operator.run("start")
    operator.wait_montage("completed", "m-2")


def test_stop_now_halts_the_stage_and_spares_the_specimen(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    begin(operator)
    mark = operator.mark()
    operator.publish("qc.status", status="STOP_NOW", reason="the beam drifts")
    failed = operator.wait_montage("error", "m-1")
    assert "the beam drifts" in failed.error_message
    operator.wait_state("Acquisition_Stopped")
    assert operator.wait("scope.command", lambda m: m.screen == "down", since=mark)
    operator.wait("roi.queue.status", lambda _: True, since=operator.mark())
    after = operator.order(mark)
    down = next(
        n for n, (t, m) in enumerate(after) if t == "scope.command" and m.screen
    )
    later = {name for name, _ in after[down + 1 :]}
    assert not later & {"camera.command", "stage.motion.command", "tile.raw"}
    assert "failed" in operator.statuses("m-1")


def test_a_stopped_session_goes_on_with_the_same_tile(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    begin(operator)
    operator.publish("qc.status", status="STOP_NOW", reason="dirt")
    operator.wait_state("Acquisition_Stopped")
    operator.run("retry")
    operator.publish(
        "qc.status", status="STOP_NOW", reason="dirt"
    )  # published before retry
    operator.wait_montage("completed", "m-1")
    done = operator.all("montage.complete")[0]
    assert len(set(tiles(operator))) == 25
    assert set(tiles(operator)) == set(done.tiles)


def test_stop_at_end_finishes_the_montage(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", *BIG)
    operator.queue("m-2", 1, 1)
    operator.run("start")
    operator.wait("montage.status", lambda m: m.current_tile >= 3)
    operator.publish("qc.status", status="STOP_AT_END", reason="seams")
    operator.publish("qc.status", status="GOOD")  # does not take it back
    operator.wait_montage("completed", "m-1")
    operator.wait_state("Preview", since=operator.mark())
    assert tiles(operator, "m-2") == []


def test_what_was_said_before_the_start_does_not_count(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.publish("qc.status", status="STOP_NOW", reason="old")
    operator.queue("m-1", 1, 2)
    operator.run("start")
    operator.wait_montage("completed", "m-1")


def test_a_stop_that_is_said_on_and_on_counts(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.publish("qc.status", status="STOP_NOW", reason="old")
    operator.queue("m-1", 40, 40)
    operator.run("start")
    operator.wait("montage.status", lambda m: m.current_tile >= 1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        operator.publish("qc.status", status="STOP_NOW", reason="old")
        time.sleep(0.3)
        if any("Stopped" in m.state for m in operator.all("state.current")):
            break
    operator.wait_state("Acquisition_Stopped")


def test_the_queue_is_reordered_and_what_waits_is_removed(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", *BIG)
    for number in (2, 3, 4):
        operator.queue(f"m-{number}", 1, 1)
    operator.run("start")
    operator.wait("montage.status", lambda m: m.current_tile >= 1)
    operator.wait("roi.queue.status", lambda m: len(m.queue) == 4)
    mark = operator.mark()
    operator.publish("roi.queue.update", remove=["m-3", "m-1"], reorder=["m-4", "m-2"])
    found = operator.wait("roi.queue.status", lambda m: len(m.queue) == 3, since=mark)
    assert [entry.montage_id for entry in found.queue] == ["m-1", "m-4", "m-2"]
    operator.wait_montage("completed", "m-2")
    order = [m.montage_id for m in operator.all("montage.complete")]
    assert order == ["m-1", "m-4", "m-2"]


def test_a_region_without_a_place_in_the_queue_is_the_next(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", 1, 1)
    operator.queue("m-2", 1, 1, queue_position=None)
    operator.run("start")
    operator.wait_montage("completed", "m-1")
    order = [m.montage_id for m in operator.all("montage.complete")]
    assert order == ["m-2", "m-1"]


def test_a_camera_that_fails_once_costs_only_time(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    set_faults(settings.home, {"camera_timeout_frames": 1})
    start()
    operator.queue("m-1", 2, 2)
    operator.run("start")
    operator.wait_montage("completed", "m-1")
    assert len(tiles(operator)) == len(set(tiles(operator))) == 4
    assert operator.statuses("m-1")[-1] != "failed"


def test_a_camera_that_is_mute_fails_and_retry_images_the_same_tile(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    start()
    begin(operator)
    set_faults(settings.home, {"camera_mute": 1})
    operator.wait_state("Acquisition_Montage_Failure")
    failed = operator.wait_montage("error", "m-1")
    assert "camera.command" in failed.error_message
    assert "not answered" in failed.error_message
    clear_faults(settings.home)
    operator.run("retry")
    operator.wait_montage("completed", "m-1")
    assert len(tiles(operator)) == len(set(tiles(operator))) == 25


def test_a_frame_that_cannot_be_noted_is_noted_later_and_not_exposed_again(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    """round3 1.3.2: without a descriptor it was exposed four times, then a failure."""
    start()
    begin(operator)
    first = operator.wait("tile.raw", lambda m: m.montage_id == "m-1").tile_id
    last = f"{acquisition_of(first)}_004_004"
    body = tile_body_path(frames_folder(settings), "m-1", last)
    (body / "in the way").mkdir(parents=True)
    operator.wait_state("CaptureTile_Noting")
    trouble = operator.wait("montage.status", lambda m: m.state == "error")
    assert trouble.montage_id == ""
    assert "could not be written" in trouble.error_message
    (body / "in the way").rmdir()
    body.rmdir()
    operator.wait_montage("completed", "m-1")
    assert len(tiles(operator)) == len(set(tiles(operator))) == 25
    exposed = [m.tile_id for m in operator.all("camera.command")]
    assert exposed.count(last) == 1
    assert "failed" not in operator.statuses("m-1")


def test_a_stage_that_sticks_fails_and_cancel_gives_the_region_up(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    start()
    begin(operator)
    set_faults(settings.home, {"stage_stuck": 1})
    operator.wait_state("_Failure")
    failed = operator.wait_montage("error", "m-1")
    assert "stage.motion.command" in failed.error_message
    clear_faults(settings.home)
    operator.run("cancel")
    operator.wait_montage("cancelled", "m-1")
    operator.wait_state("Preview", since=operator.mark())
    assert operator.statuses("m-1")[-1] == "aborted"


def test_a_place_beyond_the_stage_fails_with_the_words_of_the_stage(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    far = [(1.6e6, 0), (1.6e6, 200), (1.6002e6, 200)]
    operator.queue("m-1", vertices=[{"x": x, "y": y} for x, y in far])
    operator.run("start")
    failed = operator.wait_montage("error", "m-1")
    assert "beyond the limit" in failed.error_message


@pytest.mark.parametrize("word", ["pause", "resume", "retry", "cancel", "abort_now"])
def test_a_word_out_of_place_does_no_harm(
    operator: Any, start: Callable[..., Any], word: str
) -> None:
    start()
    operator.run(word)
    operator.run("abort_at_end")
    operator.queue("m-1", 1, 2)
    operator.run("start")
    operator.run("start")
    operator.wait_montage("completed", "m-1")


def test_a_pause_that_has_not_begun_is_taken_back(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    begin(operator)
    operator.run("pause")
    operator.run("resume")
    operator.wait_montage("completed", "m-1")
    assert len(tiles(operator)) == 25


def test_a_stage_that_was_started_again_gets_its_aperture_back(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    begin(operator)
    operator.publish("stage.aperture.command", aperture_id=7)
    operator.wait(
        "stage.aperture.command", lambda m: m.aperture_id == 1, since=operator.mark()
    )
    operator.wait_montage("completed", "m-1")
    assert len(set(tiles(operator))) == 25


def test_dark_tiles_are_imaged_again_once_after_a_stop(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    first = start()
    begin(operator)
    operator.publish("qc.status", status="STOP_NOW", reason="dark")
    operator.wait_state("Acquisition_Stopped")
    dark = tiles(operator)[-2:]
    for name in dark:
        raw = next(r for r in operator.all("tile.raw") if r.tile_id == name)
        fault = {"fault_type": "no_beam", "severity": 1, "confidence": 1}
        shared = raw.model_dump(
            include={"tile_id", "montage_id", "row", "column", "overlap"}
        )
        operator.publish(
            "qc.tile",
            **shared,
            passed=False,
            faults=[{**fault, "scope": "transient"}],
        )
    written = settings.home / "coordinator" / "session.json"
    deadline = time.monotonic() + 20
    while not all(name in written.read_text() for name in dark):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.close()  # which are dark outlives the process
    mark = operator.mark()
    start()
    operator.wait_state("Acquisition_Paused", since=mark)
    operator.run("resume")
    operator.wait_montage("completed", "m-1", since=mark)
    done = set(operator.all("montage.complete")[0].tiles)
    again = {f"{name}r1" for name in dark}
    assert again <= done
    assert not done & set(dark)
    assert len(done) == 25
    published = [name for name in tiles(operator) if retry_of(name)]
    assert set(published) >= again
    cells = [(r.row, r.column) for r in operator.all("tile.raw") if r.tile_id in done]
    assert len(set(cells)) == 25
