import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from TEM_comms.montage import Complete
from TEM_comms.tile import Raw

from em_platform.acquisition.recorder.events import Message
from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.errors import ConfigError, RecordError, StorageError
from em_platform.formats import write_tiff

HEIGHT, WIDTH, OVERLAP, PIXEL_NM = 48, 64, 8, 4.0
HEADERS = {"source": "session_1_scope", "sent_at": "1700000000000", "version": "2.7.1"}


def raw_body(
    frames: Path, acquisition_id: str, row: int, column: int, angle: float = 0.0
) -> dict[str, Any]:
    """The body of `tile.raw` of one tile in a raster without stage errors."""
    y, x = row * (HEIGHT - OVERLAP) * PIXEL_NM, column * (WIDTH - OVERLAP) * PIXEL_NM
    stage = (
        round(x * math.cos(angle) - y * math.sin(angle)),
        round(x * math.sin(angle) + y * math.cos(angle)),
    )
    tile_id = f"{acquisition_id}_{row:03d}_{column:03d}"
    message = Raw(
        tile_id=tile_id,
        montage_id=f"m-{acquisition_id}",
        row=row,
        column=column,
        overlap=OVERLAP,
        stage_position=stage,
        path=str(frames / f"m-{acquisition_id}" / f"{tile_id}.tiff"),
    )
    return message.model_dump(mode="json")


def complete_body(
    acquisition_id: str, raws: list[dict[str, Any]], angle: float = 0.0
) -> dict[str, Any]:
    """The body of `montage.complete` for these tiles."""
    message = Complete(
        montage_id=f"m-{acquisition_id}",
        tiles={
            raw["tile_id"]: {
                "raster_index": number,
                "stage_position": raw["stage_position"],
                "raster_position": (raw["column"], raw["row"]),
            }
            for number, raw in enumerate(raws)
        },
        acquisition_id=acquisition_id,
        start_time="2026-01-02T03:04:05Z",
        pixel_size=PIXEL_NM,
        rotation_angle=angle,
        aperture_centroid=(0, 0),
    )
    return message.model_dump(mode="json")


def image_montage(
    frames: Path, acquisition_id: str, *, rows: int = 2, columns: int = 3
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Save the frames of a montage as the camera does; bodies of its messages."""
    raws = [
        raw_body(frames, acquisition_id, row, column)
        for row in range(rows)
        for column in range(columns)
    ]
    for raw in raws:
        write_tiff(Path(raw["path"]), np.full((HEIGHT, WIDTH), 7, np.uint8))
    return raws, complete_body(acquisition_id, raws)


def leave_beside_frames(
    frames: Path, raws: list[dict[str, Any]], complete: dict[str, Any] | None
) -> None:
    """Write the bodies beside the frames, as the session does before it says them."""
    folder = frames / raws[0]["montage_id"]
    folder.mkdir(parents=True, exist_ok=True)
    for raw in raws:
        (folder / f"{raw['tile_id']}.json").write_text(json.dumps(raw))
    if complete is not None:
        name = f"{complete['acquisition_id']}.complete.json"
        (folder / name).write_text(json.dumps(complete))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'events.sqlite'}"


@pytest.fixture
def recorder(url: str) -> Iterator[Ledger]:
    with Ledger(url, microscope="T1", magnification=2000) as recorder:
        yield recorder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return tmp_path / "frames"


def record_montage(
    recorder: Ledger, raws: list[dict[str, Any]], complete: dict[str, Any]
) -> None:
    for raw in raws:
        recorder.append("tile.raw", raw, HEADERS)
    recorder.append("montage.complete", complete, HEADERS)


def test_events_come_back_in_order_and_after_a_cursor(recorder: Ledger) -> None:
    numbers = [
        recorder.append("qc.status", {"status": "GOOD"}, {"sent_at": str(n)})
        for n in range(5)
    ]
    assert numbers == [1, 2, 3, 4, 5]
    assert [event.seq for event in recorder.events(2)] == [3, 4, 5]
    assert [event.headers["sent_at"] for event in recorder.events(3)] == ["3", "4"]
    assert recorder.events(0, topics=["tile.raw"]) == []
    assert [event.seq for event in recorder.events(0, limit=2)] == [1, 2]


def test_the_same_tile_said_twice_is_one_event(recorder: Ledger, frames: Path) -> None:
    body = raw_body(frames, "a", 0, 0)
    assert recorder.append("tile.raw", body, HEADERS) == 1
    assert recorder.append("tile.raw", body, {**HEADERS, "sent_at": "9"}) is None
    assert recorder.append("tile.raw", raw_body(frames, "a", 0, 1), HEADERS)
    assert len(recorder.events()) == 2


def test_the_same_status_sent_anew_is_another_event(recorder: Ledger) -> None:
    status = {"status": "GOOD", "reason": None}
    assert recorder.append("qc.status", status, HEADERS) == 1
    assert recorder.append("qc.status", status, {**HEADERS, "sent_at": "9"}) == 2
    assert recorder.append("qc.status", status, HEADERS) is None


def test_a_montage_counts_once_its_completion_is_recorded(
    recorder: Ledger, frames: Path
) -> None:
    raws, complete = image_montage(frames, "a")
    for raw in raws:
        recorder.append("tile.raw", raw, HEADERS)
    assert recorder.montages() == []
    with pytest.raises(RecordError, match="no montage a is recorded as complete"):
        recorder.montage("a")
    seq = recorder.append("montage.complete", complete, HEADERS)
    assert seq is not None
    assert recorder.montages() == [(seq, "a")]
    assert recorder.montages(seq) == []


def test_a_completion_said_anew_with_other_words_is_the_same_montage(
    recorder: Ledger, frames: Path
) -> None:
    raws, complete = image_montage(frames, "a")
    record_montage(recorder, raws, complete)
    (first,) = recorder.montages()
    recorder.append("montage.complete", {**complete, "pixel_size": 4.1}, HEADERS)
    assert recorder.montages() == [first]
    assert recorder.montages(first[0]) == []
    assert recorder.montage("a").pixel_nm == 4.1


def test_a_montage_has_its_tiles_where_the_stage_stood(
    recorder: Ledger, frames: Path
) -> None:
    raws, complete = image_montage(frames, "a")
    record_montage(recorder, raws, complete)
    montage = recorder.montage("a")
    assert (montage.acquisition_id, montage.montage_id) == ("a", "m-a")
    assert (montage.microscope, montage.magnification) == ("T1", 2000)
    assert (montage.tile_size.height_px, montage.tile_size.width_px) == (HEIGHT, WIDTH)
    assert (montage.expected_tiles, montage.failures) == (6, ())
    assert montage.pixel_nm == PIXEL_NM
    assert montage.started_at is not None
    assert montage.started_at.isoformat() == "2026-01-02T03:04:05+00:00"
    for tile in montage.tiles:
        assert tile.y_px == pytest.approx(tile.row * (HEIGHT - OVERLAP))
        assert tile.x_px == pytest.approx(tile.column * (WIDTH - OVERLAP))
    assert [(t.row, t.column) for t in montage.tiles] == [
        (row, column) for row in range(2) for column in range(3)
    ]


@pytest.mark.parametrize("angle", [0.3, -2.0, math.pi / 2])
def test_a_turned_camera_is_turned_back(
    recorder: Ledger, frames: Path, angle: float
) -> None:
    raws = [raw_body(frames, "a", r, c, angle) for r in range(2) for c in range(3)]
    for raw in raws:
        write_tiff(Path(raw["path"]), np.full((HEIGHT, WIDTH), 7, np.uint8))
    record_montage(recorder, raws, complete_body("a", raws, angle))
    for tile in recorder.montage("a").tiles:
        assert tile.y_px == pytest.approx(tile.row * (HEIGHT - OVERLAP), abs=0.3)
        assert tile.x_px == pytest.approx(tile.column * (WIDTH - OVERLAP), abs=0.3)


def test_a_tile_that_was_never_saved_is_a_failure_and_the_rest_is_there(
    recorder: Ledger, frames: Path
) -> None:
    raws, complete = image_montage(frames, "a")
    Path(raws[4]["path"]).unlink()
    record_montage(recorder, [*raws[:2], *raws[3:]], complete)
    montage = recorder.montage("a")
    assert len(montage.tiles) == 4
    assert montage.expected_tiles == 6
    assert {failure.item for failure in montage.failures} == {
        "a_000_002",
        "a_001_001",
    }
    unsaid, unsaved = sorted(montage.failures, key=lambda failure: failure.item)
    assert unsaid.sentence == (
        "tile a_000_002: announced at row 0, column 2 of montage m-a, but no frame of "
        "it was recorded, one was expected; image it again"
    )
    assert unsaved.sentence.count(raws[4]["path"]) == 1


@pytest.mark.parametrize("is_late", [False, True])
def test_the_plan_of_a_montage_is_what_its_status_says(
    recorder: Ledger, frames: Path, is_late: bool
) -> None:
    raws, _ = image_montage(frames, "a")
    all_messages = [
        {"total_tiles": 6},
        {"total_tiles": 9, "tilt_index": 1},
        {"state": "error"},
    ]
    if is_late:  # the recorder was started behind the completion
        record_montage(recorder, raws[:4], complete_body("a", raws[:4]))
    for number, fields in enumerate(all_messages):
        body = {"montage_id": "m-a", **fields}
        recorder.append("montage.status", body, {"sent_at": str(number)})
    if not is_late:
        record_montage(recorder, raws[:4], complete_body("a", raws[:4]))
    assert recorder.montage("a").expected_tiles == 6


def test_a_tile_said_twice_is_one_tile_and_the_last_word_counts(
    recorder: Ledger, frames: Path
) -> None:
    raws, complete = image_montage(frames, "a")
    elsewhere = frames / "again.tiff"
    write_tiff(elsewhere, np.full((HEIGHT, WIDTH), 9, np.uint8))
    recorder.append("tile.raw", raws[0], HEADERS)
    record_montage(recorder, [*raws, {**raws[0], "path": str(elsewhere)}], complete)
    montage = recorder.montage("a")
    assert len(montage.tiles) == 6
    assert montage.tiles[0].uri == str(elsewhere)
    assert montage.failures == ()


def test_tiles_of_another_acquisition_of_the_montage_are_left_out(
    recorder: Ledger, frames: Path
) -> None:
    raws, complete = image_montage(frames, "a")
    stranger = {**raws[0], "tile_id": "b_000_000"}
    record_montage(recorder, [stranger, *raws], complete)
    assert len(recorder.montage("a").tiles) == 6


def test_the_last_scope_status_gives_the_magnification(
    recorder: Ledger, frames: Path
) -> None:
    raws, complete = image_montage(frames, "a")
    recorder.append("scope.status", {"mag": 5000}, {"sent_at": "1"})
    record_montage(recorder, raws, complete)
    recorder.append("scope.status", {"mag": 100}, {"sent_at": "2"})
    assert recorder.montage("a").magnification == 5000


def test_an_id_that_is_no_name_of_a_file_gets_a_safe_one(
    recorder: Ledger, frames: Path
) -> None:
    raws, complete = image_montage(frames, "a")
    complete["acquisition_id"] = "../tape 3/ROI 7"
    record_montage(recorder, raws, complete)
    ((_, name),) = recorder.montages()
    assert name.startswith("tape_3_ROI_7-")
    assert len(recorder.montage(name).tiles) == 6


def test_what_lies_on_disk_is_recorded_once(recorder: Ledger, frames: Path) -> None:
    raws, complete = image_montage(frames, "a")
    leave_beside_frames(frames, raws, complete)
    (frames / "m-a" / "a.truth.json").write_text("{}")
    assert recorder.reconcile_montage(frames / "m-a") == 7
    assert recorder.reconcile_montage(frames / "m-a") == 0
    record_montage(recorder, raws, complete)
    assert len(recorder.events()) == 7
    assert [event.topic for event in recorder.events()][-1] == "montage.complete"
    assert len(recorder.montage("a").tiles) == 6


def test_what_was_heard_is_not_recorded_again_from_the_disk(
    recorder: Ledger, frames: Path
) -> None:
    raws, complete = image_montage(frames, "a")
    record_montage(recorder, raws[:3], complete)
    leave_beside_frames(frames, raws, complete)
    assert recorder.reconcile_montage(frames / "m-a") == 3
    assert len(recorder.events()) == 7


def test_a_broken_file_beside_the_frames_is_reported_and_passed_over(
    recorder: Ledger, frames: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raws, complete = image_montage(frames, "a")
    leave_beside_frames(frames, raws, complete)
    (frames / "m-a" / "a_000_001.json").write_text('{"tile_id": "a_000_0')
    assert recorder.reconcile_montage(frames / "m-a") == 6
    (record,) = caplog.records
    assert "a_000_001.json is not the body of a tile.raw message" in record.message
    assert [f.item for f in recorder.montage("a").failures] == ["a_000_001"]


def test_a_folder_without_frames_reconciles_to_nothing(
    recorder: Ledger, frames: Path
) -> None:
    assert recorder.reconcile_montage(frames / "m-a") == 0


def test_many_events_a_second_are_recorded(recorder: Ledger, frames: Path) -> None:
    all_messages = [
        Message("tile.raw", raw_body(frames, "a", 0, n), {}) for n in range(2000)
    ]
    began = time.process_time()
    for start in range(0, len(all_messages), 100):
        recorder.append_all(all_messages[start : start + 100])
    # 500 a second; CPU time, as the machine may be busy.
    assert time.process_time() - began < 4.0
    assert len(recorder.tile_ids("m-a")) == 2000


def test_a_wrong_url_is_reported_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"'mysql://x' is no URL of a database"):
        Ledger("mysql://x")
    with pytest.raises(ConfigError, match=r"correct acquisition\.recorder_url"):
        Ledger("no url")


def test_a_database_that_is_away_is_reported_without_its_password(
    free_port: Callable[[], int],
) -> None:
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/em?connect_timeout=2"
    with pytest.raises(StorageError, match="could not be read") as caught:
        Ledger(url)
    assert "secret" not in str(caught.value)


def _append_many(url: str, name: str, count: int) -> None:
    with Ledger(url) as recorder:
        for number in range(count):
            headers = {"source": name, "sent_at": str(number)}
            recorder.append("qc.status", {"status": "GOOD"}, headers)


def read_while_many_write(url: str, *, writers: int, count: int) -> None:
    """A cursor meets every event once, in order, while processes write."""
    Ledger(url).close()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_append_many, args=(url, f"w{n}", count))
        for n in range(writers)
    ]
    for process in processes:
        process.start()
    seen: list[int] = []
    deadline = time.monotonic() + 60
    with Ledger(url) as recorder:
        while len(seen) < writers * count and time.monotonic() < deadline:
            seen += [event.seq for event in recorder.events(seen[-1] if seen else 0)]
            time.sleep(0.005)
        everything = [event.seq for event in recorder.events(limit=10_000)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(seen) == writers * count
    assert seen == everything


def test_a_cursor_misses_nothing_while_several_processes_write(url: str) -> None:
    read_while_many_write(url, writers=3, count=25)
