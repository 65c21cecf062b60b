"""A session as another client hears it, over a real broker."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.frame_paths import complete_body_path, frame_path
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.events import VERDICT, Message
from em_platform.acquisition.session.session_log import SessionLog
from em_platform.cli.watch import figures
from em_platform.config import Settings
from em_platform.messaging.bus import Bus
from em_platform.messaging.topics import fitting
from em_platform.model import AcquisitionUpload, Failure
from em_platform.storage import layout, store_of
from em_platform.storage.atomic import write_bytes
from tests.uploads import new_tile, new_upload

MONTAGE, RUN = "m-0001", "m-0001-20261121t120000"


@pytest.fixture
def bus(open_bus: Callable[[str], Bus]) -> Bus:
    return open_bus("microscope")


@pytest.fixture
def log_of_session(
    open_bus: Callable[[str], Bus], rig_settings: Settings
) -> SessionLog:
    return SessionLog(open_bus("acquire"), rig_settings, [MONTAGE])


def tile(column: int) -> dict[str, Any]:
    return {
        "tile_id": f"{RUN}_000_{column:03d}",
        "montage_id": MONTAGE,
        "row": 0,
        "column": column,
        "overlap": 8,
    }


def image(bus: Bus, settings: Settings, column: int) -> Path:
    """Save a frame, as the camera does, and say so."""
    fields = tile(column)
    path = frame_path(settings.home / "frames", MONTAGE, fields["tile_id"])
    write_bytes(path, b"pixels")
    bus.publish("tile.raw", **fields, path=str(path))
    return path


def say_status(bus: Bus, state: str, **fields: Any) -> None:
    bus.publish(
        "montage.status", montage_id=MONTAGE, state=state, total_tiles=2, **fields
    )


def complete(columns: int) -> dict[str, Any]:
    entry = {"raster_index": 0, "stage_position": (0, 0), "raster_position": (0, 0)}
    return {
        "montage_id": MONTAGE,
        "tiles": {tile(column)["tile_id"]: entry for column in range(columns)},
        "acquisition_id": RUN,
        "start_time": "2026-11-21T12:00:00Z",
        "pixel_size": 4.0,
        "rotation_angle": 0.0,
        "aperture_centroid": (0, 0),
    }


def until(truth: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_whole_session_is_settled_when_it_is_uploaded(
    bus: Bus, log_of_session: SessionLog, rig_settings: Settings
) -> None:
    bus.publish(
        "camera.status",
        **{"exposure": 5e3, "gain": 0, "width": 64, "height": 32, "temp": 0},
        **{"target_temp": 0, "device_name": "c", "device_model_id": "c"},
        **{"device_sn": "1", "bit_depth": 8},
    )
    say_status(bus, "started")
    for column in range(2):
        image(bus, rig_settings, column)
        bus.publish("tile.processed", **tile(column), path="p")
        bus.publish("tile.matches", **tile(column), matches=[])
        bus.publish("qc.tile", **tile(column), passed=column == 0)
    bus.publish("montage.complete", **complete(2))
    say_status(bus, "completed")
    until(
        lambda: (
            bool(log_of_session.runs) and log_of_session.runs[0].state == "completed"
        )
    )
    log_of_session.look()
    assert not log_of_session.is_settled
    write_upload(rig_settings)
    log_of_session.look()
    assert log_of_session.is_settled
    report = log_of_session.report()
    assert report.is_good, report
    assert (report.tiles_imaged, report.tiles_lost) == (2, 0)
    (montage,) = report.montages
    assert (montage.acquisition_id, montage.passed, montage.failed) == (RUN, 1, 1)
    assert report.verdict_p99_ms is not None
    assert 0 <= report.verdict_p99_ms < 30_000
    assert report.mpix_per_s == pytest.approx(report.tiles_per_s * 64 * 32 / 1e6)


def test_tiles_judged_twice_and_a_lost_frame_are_reported(
    bus: Bus, log_of_session: SessionLog, rig_settings: Settings
) -> None:
    say_status(bus, "started")
    image(bus, rig_settings, 0).unlink()
    bus.publish("qc.tile", **tile(0), passed=True)
    bus.publish("qc.tile", **tile(0), passed=True)
    bus.publish("qc.tile", **tile(0), passed=False)
    bus.publish("montage.complete", **complete(1))
    say_status(bus, "completed")
    until(lambda: bool(log_of_session.runs) and log_of_session.runs[0].is_over)
    report = log_of_session.report()
    assert report.tiles_lost == 1
    assert (report.montages[0].duplicates, report.montages[0].repeats) == (1, 1)
    assert not report.is_good


def test_a_message_that_was_missed_is_read_from_disk(
    bus: Bus, log_of_session: SessionLog, rig_settings: Settings
) -> None:
    say_status(bus, "started")
    image(bus, rig_settings, 0)
    bus.publish("qc.tile", **tile(0), passed=True)
    path = complete_body_path(rig_settings.home / "frames", MONTAGE, RUN)
    write_bytes(path, b'{"tiles": {"%s": {}}}' % tile(0)["tile_id"].encode())
    bus.publish("roi.status", montage_id=MONTAGE, status="complete", timestamp=1)
    until(lambda: bool(log_of_session.runs) and log_of_session.runs[0].is_over)
    write_upload(rig_settings)
    log_of_session.look()
    assert log_of_session.is_settled
    assert log_of_session.report().is_good


def test_a_stop_is_timed_from_the_word_to_the_stage(
    bus: Bus, log_of_session: SessionLog
) -> None:
    bus.publish("stage.motion.command", x=1, y=1)
    say_status(bus, "started")
    bus.publish("qc.status", status="STOP_NOW", reason="sparks")
    time.sleep(0.1)
    bus.publish("stage.motion.command", x=0, y=0)
    bus.publish("stage.motion.command", x=0, y=0)
    say_status(bus, "error", error_message="sparks")
    until(lambda: bool(log_of_session.runs) and log_of_session.runs[0].is_over)
    report = log_of_session.report()
    assert report.stop_ms is not None
    assert report.stop_ms >= 100
    assert log_of_session.is_settled
    assert report.montages[0].reason == "sparks"
    assert (report.tiles_lost, report.is_good) == (0, False)


def test_a_region_that_fails_before_its_montage_is_reported(
    bus: Bus, log_of_session: SessionLog
) -> None:
    bus.publish(
        "roi.status",
        montage_id=MONTAGE,
        status="failed",
        timestamp=1,
        error_message="disk full",
    )
    until(lambda: bool(log_of_session.runs))
    assert log_of_session.is_settled
    assert log_of_session.report().montages[0].reason == "disk full"


def test_the_last_run_of_a_montage_counts_and_others_do_not(
    bus: Bus, log_of_session: SessionLog, rig_settings: Settings
) -> None:
    bus.publish("tile.raw", **{**tile(0), "montage_id": "other"}, path="x")
    say_status(bus, "started")
    image(bus, rig_settings, 0)
    say_status(bus, "error", error_message="stuck")
    say_status(bus, "started")
    later = {**tile(0), "tile_id": "m-0001-20261121t130000_000_000"}
    bus.publish("tile.raw", **later, path="x")
    until(lambda: any(later["tile_id"] in run.tiles for run in log_of_session.runs))
    (run,) = log_of_session.runs
    assert run.acquisition_id == "m-0001-20261121t130000"
    assert len(run.tiles) == 1


def test_tiles_of_an_earlier_session_are_neither_lost_nor_without_a_verdict(
    bus: Bus, log_of_session: SessionLog, rig_settings: Settings
) -> None:
    with ledger_of(rig_settings) as ledger:
        verdicts = [{**tile(0), "passed": True}, {**tile(1), "passed": False}]
        ledger.append_all([Message(VERDICT, body, {}) for body in verdicts])
    say_status(bus, "resumed", current_tile=2)
    image(bus, rig_settings, 2)
    bus.publish("qc.tile", **tile(2), passed=True)
    bus.publish("montage.complete", **complete(3))
    say_status(bus, "completed", current_tile=3)
    until(lambda: bool(log_of_session.runs) and log_of_session.runs[0].is_over)
    assert not log_of_session.is_settled
    write_upload(rig_settings)
    log_of_session.look()
    assert log_of_session.is_settled
    report = log_of_session.report()
    (montage,) = report.montages
    assert (montage.tiles, montage.passed, montage.failed, montage.received) == (
        *(3, 2, 1),
        1,
    )
    assert report.tiles_lost == 0
    # One tile was imaged in these seconds, not three.
    assert report.tiles_per_s == pytest.approx(1 / montage.seconds)


def test_an_uploaded_montage_has_lost_what_had_no_frame_when_it_was_sent(
    bus: Bus, log_of_session: SessionLog, rig_settings: Settings
) -> None:
    say_status(bus, "started")
    image(bus, rig_settings, 0).unlink()
    image(bus, rig_settings, 1).unlink()
    bus.publish("montage.complete", **complete(2))
    say_status(bus, "completed")
    until(lambda: bool(log_of_session.runs) and log_of_session.runs[0].is_over)
    sentence = "tile: no frame of it was saved"
    lost = Failure(item=tile(1)["tile_id"], error="DataError", sentence=sentence)
    write_upload(rig_settings, failures=(lost,))
    assert log_of_session.report().tiles_lost == 1


def write_upload(settings: Settings, **more: Any) -> None:
    """As aloha does when it has verified the montage."""
    upload = new_upload(RUN, montage_id=MONTAGE, **more)
    store_of(settings).write(layout.upload(RUN), upload, AcquisitionUpload)


def test_a_late_verdict_and_what_was_not_made_are_in_the_report(
    bus: Bus, log_of_session: SessionLog, rig_settings: Settings
) -> None:
    """round3 1.3.1, 1.3.2: what was missing was counted nowhere, with status 0."""
    say_status(bus, "started")
    late = {"fault_type": "incomplete", "severity": 1, "scope": "transient"}
    for column in range(2):
        image(bus, rig_settings, column)
        faults = [{**late, "confidence": 0.3}]
        bus.publish("qc.tile", **tile(column), passed=False, faults=faults)
    bus.publish("qc.tile", **tile(0), passed=True)
    bus.publish("montage.complete", **complete(2))
    say_status(bus, "completed")
    until(lambda: bool(log_of_session.runs) and log_of_session.runs[0].judged == 1)
    missing = ("processed frame", "figures", "matches", "verdict")
    write_upload(rig_settings, tiles=(new_tile(0), new_tile(1, missing=missing)))
    report = log_of_session.report()
    (montage,) = report.montages
    assert (montage.passed, montage.failed, montage.unjudged) == (1, 0, 1)
    assert montage.duplicates == 0
    assert "1 without processed frame, 1 without figures" in montage.missing
    assert not report.is_good
    assert "1 montage incomplete" in next(iter(figures(report)))
    assert any(montage.missing in line for line in figures(report))


def queue(*entries: tuple[str, str, int]) -> dict[str, Any]:
    return {
        "queue": [
            {"montage_id": name, "status": status, "timestamp": at}
            for name, status, at in entries
        ],
        "completed_count": 0,
        "timestamp": 1,
    }


def test_a_failure_from_before_the_start_is_not_one_of_this_session(
    bus: Bus, open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    before = fitting("roi.queue.status", queue((MONTAGE, "failed", 7)))
    known = {entry.montage_id: entry for entry in before.queue}
    log_of_session = SessionLog(
        open_bus("acquire"), rig_settings, [MONTAGE, "m-0002"], queue=known
    )
    bus.publish("roi.status", montage_id=MONTAGE, status="failed", timestamp=7)
    bus.publish("roi.queue.status", **queue((MONTAGE, "failed", 7)))
    say_status(bus, "resumed")
    until(lambda: bool(log_of_session.runs))
    assert log_of_session.runs[0].state == "resumed"
    bus.publish(
        "roi.queue.status", **queue((MONTAGE, "failed", 9), ("m-0002", "pending", 8))
    )
    say_status(bus, "error", error_message="dark")
    until(lambda: log_of_session.is_settled)  # m-0002 does not begin before a retry
    first, second = log_of_session.report().montages
    assert (first.state, first.reason) == ("error", "dark")
    assert second.state == "pending"
    assert "waits behind m-0001, which failed" in second.reason


def test_a_session_that_stops_at_its_end_leaves_the_next_montage_at_once(
    bus: Bus, open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    log_of_session = SessionLog(open_bus("acquire"), rig_settings, [MONTAGE])
    bus.publish("state.current", state="Acquisition_Montage_MoveStage")
    bus.publish("qc.status", status="STOP_AT_END", reason="5 tiles are blurred.")
    bus.publish("state.current", state="Preview_UpdateImage")
    until(lambda: log_of_session.is_settled)
    (montage,) = log_of_session.report().montages
    assert montage.state == "pending"
    assert "5 tiles are blurred" in montage.reason
