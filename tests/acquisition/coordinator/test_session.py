"""A whole session: the queue is imaged, and every message of it is published."""

import itertools
import json
from collections.abc import Callable
from typing import Any

from em_platform.config import Settings
from em_platform.storage.atomic import write_bytes


def test_the_queue_is_imaged_and_published(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    start()
    operator.queue("m-1", 2, 3)
    operator.queue("m-2", 1, 2, aperture_id=2)
    operator.run("start")
    operator.wait_montage("completed", "m-2")
    operator.wait_state("Preview_UpdateImage", since=operator.mark())

    raws = operator.all("tile.raw")
    assert [raw.montage_id for raw in raws] == ["m-1"] * 6 + ["m-2"] * 2
    assert len({raw.tile_id for raw in raws}) == 8
    for raw in raws:
        folder = settings.home / "frames" / raw.montage_id
        assert (folder / f"{raw.tile_id}.tiff").is_file()
        body = json.loads((folder / f"{raw.tile_id}.json").read_bytes())
        assert body == raw.model_dump(mode="json")
    done, _ = operator.all("montage.complete")
    assert set(done.tiles) == {raw.tile_id for raw in raws[:6]}
    assert [tuple(t.raster_position) for t in done.tiles.values()] == [
        (0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1),
    ]  # fmt: skip
    written = settings.home / "frames/m-1" / f"{done.acquisition_id}.complete.json"
    assert json.loads(written.read_bytes()) == done.model_dump(mode="json")
    assert operator.statuses("m-1") == ["pending", "active", "complete"]
    queue = operator.all("roi.queue.status")[-1]
    assert queue.completed_count == 2
    assert queue.active_montage_id is None
    assert [entry.status.value for entry in queue.queue] == ["complete", "complete"]


def test_every_figure_of_the_status_is_published(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", 2, 2)
    operator.run("start")
    operator.wait_montage("completed")
    states = [m.state.value for m in operator.all("montage.status")]
    assert states == ["started", *["in_progress"] * 4, "completed"]
    last = operator.all("montage.status")[-2]
    assert (last.current_tile, last.total_tiles) == (4, 4)
    figures = last.model_dump(
        exclude={"tilt_angle", "tilt_series_id", "tilt_index", "tilt_total"}
    )
    assert figures.pop("error_message") is None
    assert None not in figures.values()
    assert last.stage_move_time_ms + last.capture_time_ms < 60_000


def test_a_region_is_said_before_its_tiles_with_its_metadata(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    replaced = {"replaces_acquisition_id": "m-0-20260101t000000"}
    operator.queue("m-1", 1, 1, metadata=replaced)
    operator.run("start")
    operator.wait_montage("completed")
    topics = [name for name, _ in operator.order()]
    assert topics.index("roi.current") < topics.index("tile.raw")
    assert operator.all("roi.current")[0].metadata == replaced


def test_the_stage_is_sent_on_before_the_frame_is_there(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", 1, 4)
    operator.run("start")
    operator.wait_montage("completed")
    commands = operator.all("stage.motion.command")
    assert len(commands) == 4  # to each tile once
    order = [
        name
        for name, _ in operator.order()
        if name in ("tile.raw", "camera.command", "stage.motion.command")
    ]
    # move, expose, move on, frame, expose, ...: never a frame before the next move
    first = order.index("tile.raw")
    assert order[:first].count("stage.motion.command") == 2


def test_the_state_is_reported_with_its_whole_path(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", 1, 2)
    operator.run("start")
    operator.wait_montage("completed")
    operator.wait_state("Preview", since=operator.mark())
    changes = [(m.old, m.new) for m in operator.all("state.change")]
    assert all(new == old for (_, new), (old, _) in itertools.pairwise(changes))
    states = {new for _, new in changes}
    assert "Acquisition_Montage_MoveStage_Request" in states
    assert "Acquisition_Montage_CaptureTile_Request" in states


def test_the_references_are_kept_beside_the_frames(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    references = settings.home / "frames" / "references"
    write_bytes(references / "bright.tiff", b"the first")
    start()
    operator.queue("m-1", 1, 1)
    operator.run("start")
    operator.wait_montage("completed")
    write_bytes(references / "bright.tiff", b"the second")
    kept = settings.home / "frames" / "m-1" / "bright.tiff"
    assert kept.read_bytes() == b"the first"
    assert not (kept.parent / "dark.tiff").exists()


def test_a_preview_is_shown_while_nothing_is_imaged(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    start(preview_s=0.2)
    raw = operator.wait("tile.raw", lambda m: m.montage_id == "")
    assert (settings.home / "frames" / "preview" / f"{raw.tile_id}.tiff").is_file()
    operator.queue("m-1", 1, 1)
    operator.run("start")
    operator.wait_montage("completed")


def test_a_start_with_an_empty_queue_stays_in_the_preview(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.run("start")
    operator.queue("m-1", 1, 1)
    operator.wait("roi.status", lambda m: m.montage_id == "m-1")
    states = {m.state for m in operator.all("state.current")}
    assert not any(state.startswith("Acquisition") for state in states)


def test_the_same_region_twice_is_imaged_once(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", 1, 1)
    operator.queue("m-1", 1, 1)
    operator.run("start")
    operator.wait_state("Preview", since=operator.mark())
    operator.wait("roi.queue.status", lambda m: m.completed_count == 1)
    assert len(operator.all("montage.complete")) == 1


def test_a_region_that_cannot_be_imaged_is_refused(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", vertices=[{"x": 0, "y": 0}])
    found = operator.wait("roi.status", lambda m: m.montage_id == "m-1")
    assert found.status == "failed"
    assert "1 corners" in found.error_message
    operator.queue("../m-2")
    found = operator.wait("roi.status", lambda m: m.montage_id == "../m-2")
    assert "cannot be a file's name" in found.error_message


def test_a_condition_stops_before_the_aperture_and_retry_looks_again(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    start(require_brightfield=True)
    operator.queue("m-1", 1, 1)
    operator.run("start")
    operator.wait_state("Acquisition_CheckConditions_Failure")
    found = operator.wait_montage("error", "m-1")
    assert "no brightfield" in found.error_message
    assert operator.all("stage.aperture.command") == []
    write_bytes(settings.home / "frames/references/bright.tiff", b"light")
    operator.run("retry")
    operator.wait("roi.queue.status", lambda m: m.completed_count == 1)
    statuses = ["pending", "active", "failed", "active", "complete"]
    assert operator.statuses("m-1") == statuses
