"""A session outlives the process that runs it; see tests/system for kill -9."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.coordinator.registry import Registry
from em_platform.acquisition.coordinator.service import CoordinatorService
from em_platform.acquisition.frame_paths import acquisition_of, retry_of
from em_platform.acquisition.recorder import ledger_of
from em_platform.config import Settings
from em_platform.errors import StorageError


def drop(service: CoordinatorService) -> None:
    """End it as a kill would: nothing is statuses, nothing is written."""
    service._loop.stop()
    service._thread.join(10)


def begin(operator: Any, *, rows: int = 5, columns: int = 5, tiles: int = 4) -> None:
    operator.queue("m-1", rows, columns)
    operator.queue("m-2", 1, 1)
    operator.run("start")
    operator.wait("montage.status", lambda m: m.current_tile >= tiles)


def check(operator: Any, settings: Settings, *, tiles: int = 25) -> Any:
    """Nothing is lost or doubled, on the bus or on disk."""
    done = [m for m in operator.all("montage.complete") if m.montage_id == "m-1"]
    assert len({m.acquisition_id for m in done}) == 1
    assert len(done[0].tiles) == tiles
    folder = settings.home / "frames" / "m-1"
    bodies = list(folder.glob("*_*_*.json"))
    assert {path.stem for path in bodies} == set(done[0].tiles)
    raws = [r for r in operator.all("tile.raw") if r.montage_id == "m-1"]
    assert {r.tile_id for r in raws} == set(done[0].tiles)
    for raw in raws:  # what was published again is the same
        body = json.loads((folder / f"{raw.tile_id}.json").read_bytes())
        assert body == raw.model_dump(mode="json")
    return done[0]


def test_a_running_session_goes_on_by_itself(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    service = start()
    begin(operator)
    drop(service)
    mark = operator.mark()
    exposed = {c.tile_id for c in operator.all("camera.command")[:-1]}
    start()
    resumed = operator.wait_montage("resumed", "m-1", since=mark)
    assert resumed.current_tile >= 4
    operator.wait_montage("completed", "m-2", since=mark)
    check(operator, settings)
    again = {c.tile_id for c in operator.all("camera.command", since=mark)}
    assert not again & (exposed - {""})  # but for the one that was under way
    states = [m.state.value for m in operator.all("montage.status")]
    assert states.count("started") == 2  # of m-1 and of m-2


def test_a_paused_session_stays_paused(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    service = start()
    begin(operator)
    operator.run("pause")
    operator.wait_state("Paused")
    drop(service)
    mark = operator.mark()
    start()
    operator.wait_state("Acquisition_Paused", since=mark)
    assert operator.all("tile.raw", since=mark) == []
    operator.run("resume")
    operator.wait_montage("completed", "m-2", since=mark)
    check(operator, settings)


def test_an_orderly_end_pauses_the_session_and_puts_the_screen_down(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    service = start()
    begin(operator)
    service.close()
    operator.wait_state("Shutdown")
    operator.wait_montage("paused", "m-1")
    assert operator.all("scope.command")[-1].screen == "down"
    mark = operator.mark()
    start()
    operator.wait_state("Acquisition_Paused", since=mark)
    operator.run("start")
    operator.wait_montage("completed", "m-2", since=mark)
    check(operator, settings)


def test_a_completion_that_was_not_noted_is_said_once_more(
    operator: Any, start: Callable[..., Any], settings: Settings, tmp_path: Path
) -> None:
    service = start()
    operator.queue("m-1", 2, 2)
    operator.run("start")
    path = settings.home / "coordinator" / "session.json"
    operator.wait("montage.status", lambda m: m.current_tile >= 2)
    before = path.read_bytes()
    operator.wait("roi.queue.status", lambda m: m.completed_count == 1)
    drop(service)
    path.write_bytes(before)  # killed between the last tile and the note
    mark = operator.mark()
    start()
    operator.wait("roi.queue.status", lambda m: m.completed_count == 1, since=mark)
    assert operator.all("camera.command", since=mark) == []
    first, second = operator.all("montage.complete")
    assert first == second
    check(operator, settings, tiles=4)


def test_verdicts_that_were_published_while_it_was_down_count(
    operator: Any,
    start: Callable[..., Any],
    settings: Settings,
    live_recorder: Callable[..., Any],
) -> None:
    dark = {
        **{"fault_type": "no_beam", "scope": "transient", "metrics": {}},
        **{"severity": 1.0, "confidence": 1.0},
    }
    with live_recorder(settings):
        service = start()
        begin(operator, rows=3, columns=4, tiles=5)
        drop(service)
        bodies = sorted((settings.home / "frames/m-1").glob("*_*_*.json"))
        before = [json.loads(path.read_bytes()) for path in bodies]
        rejected = before[1]["tile_id"]
        for raw in before:
            faults = [dark] if raw["tile_id"] == rejected else []
            fields = {name: raw[name] for name in ("tile_id", "montage_id", "overlap")}
            fields |= {name: raw[name] for name in ("row", "column")}
            operator.publish("qc.tile", **fields, passed=not faults, faults=faults)
        acquisition_id = acquisition_of(rejected)
        with ledger_of(settings) as ledger:
            deadline = time.monotonic() + 20
            while len(ledger.verdicts("m-1", acquisition_id)) < len(before):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        mark = operator.mark()
        start()
        operator.wait_montage("resumed", "m-1", since=mark)
        operator.publish("qc.status", status="STOP_NOW", reason="it is dark")
        operator.wait_state("Stopped", since=mark)
        mark = operator.mark()
        operator.run("retry")
        operator.wait_montage("completed", "m-1", since=mark)
    # The next montage may be complete by now, too.
    (done,) = (
        m for m in operator.all("montage.complete", since=mark) if m.montage_id == "m-1"
    )
    retried = {tile_id for tile_id in done.tiles if retry_of(tile_id)}
    judged = {raw["tile_id"] for raw in before}
    assert len(done.tiles) == 12
    # The others have their verdict: they are neither lost nor imaged a second time.
    assert judged - set(done.tiles) == {rejected}
    assert f"{rejected}r1" in retried


def test_a_tilt_series_goes_on_at_its_angle(
    operator: Any, start: Callable[..., Any]
) -> None:
    service = start()
    angles = [0.0, 10.0, 20.0]
    operator.queue("t-1", 3, 3, acquisition_type="tilt_series", tilt_angles=angles)
    operator.run("start")
    operator.wait("montage.status", lambda m: m.tilt_index == 1 and m.current_tile > 2)
    drop(service)
    start()
    operator.wait("montage.complete", lambda m: m.tilt_index == 2)
    done = operator.all("montage.complete")
    assert [m.tilt_index for m in done] == [0, 1, 2]
    assert [len(m.tiles) for m in done] == [9, 9, 9]


def test_what_waits_in_the_queue_outlives_a_restart(
    operator: Any, start: Callable[..., Any]
) -> None:
    service = start()
    operator.queue("m-1", 1, 1)
    operator.queue("m-2", 1, 1)
    operator.wait("roi.queue.status", lambda m: len(m.queue) == 2)
    drop(service)
    mark = operator.mark()
    start()
    operator.wait("roi.queue.status", lambda m: len(m.queue) == 2, since=mark)
    operator.run("start")
    operator.wait_montage("completed", "m-2", since=mark)


def test_a_session_that_cannot_be_read_is_reported_with_its_place(
    tmp_path: Path,
) -> None:
    path = tmp_path / "session.json"
    path.write_text("{")
    with pytest.raises(StorageError, match="move the file away"):
        Registry(path)
