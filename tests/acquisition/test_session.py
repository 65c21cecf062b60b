"""A session images what was planned, says all of it, and outlives an outage."""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import TEM_comms

from em_platform.acquisition.devices.camera import Camera
from em_platform.acquisition.devices.scope import Scope
from em_platform.acquisition.devices.stage import Stage
from em_platform.acquisition.devices.truth import MontageTruth
from em_platform.acquisition.frame_paths import tile_name
from em_platform.acquisition.instrument import Instrument
from em_platform.acquisition.raster import MontagePlan
from em_platform.acquisition.session import Imaged, Session, reserve_id
from em_platform.config import Settings
from em_platform.errors import DeviceError
from em_platform.messaging.bus import Bus

NOW = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)


def plan(number: int = 1, **changes: Any) -> MontagePlan:
    fields = {"rows": 2, "columns": 2, "overlap": 0.25}
    return MontagePlan(
        montage_id=f"m-{number:04d}", aperture_id=number, **{**fields, **changes}
    )


def session(bus: Bus, settings: Settings, **changes: Any) -> Session:
    acquisition = settings.acquisition.model_copy(update=changes)
    return Session(
        Instrument(bus, acquisition), acquisition, frames=settings.home / "frames"
    )


@pytest.fixture
def devices(serve: Callable[..., Any], rig_settings: Settings) -> None:
    for kind in (Scope, Stage, Camera):
        serve(kind, rig_settings)


@pytest.fixture
def heard(open_bus: Callable[[str], Bus]) -> list[tuple[str, Any]]:
    """Everything that a listener hears about montages, in order."""
    found: list[tuple[str, Any]] = []
    names = {
        TEM_comms.tile.Raw: "tile.raw",
        TEM_comms.montage.Status: "montage.status",
        TEM_comms.montage.Complete: "montage.complete",
    }
    open_bus("listener").subscribe_many(
        names.values(), lambda message, _: found.append((names[type(message)], message))
    )
    return found


def wait_for_end(heard: list[tuple[str, Any]]) -> Any:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        last = [m for topic, m in heard if topic == "montage.status"][-1:]
        if last and last[0].state in ("completed", "error"):
            return last[0]
        time.sleep(0.02)
    raise AssertionError("the montage did not end")


@pytest.fixture
def imaged(
    devices: None,
    heard: list[tuple[str, Any]],
    open_bus: Callable[[str], Bus],
    rig_settings: Settings,
) -> Imaged:
    (made,) = session(open_bus("session"), rig_settings).image([plan(3)])
    wait_for_end(heard)
    return made


def test_every_tile_is_saved_and_said_and_then_the_montage(
    imaged: Imaged, heard: list[tuple[str, Any]]
) -> None:
    raws = [message for topic, message in heard if topic == "tile.raw"]
    (complete,) = [message for topic, message in heard if topic == "montage.complete"]
    expected = {
        tile_name(imaged.acquisition_id, row, column)
        for row in (0, 1)
        for column in (0, 1)
    }
    assert {raw.tile_id for raw in raws} == expected == set(complete.tiles)
    assert all(Path(raw.path).is_file() for raw in raws)
    topics = [topic for topic, _ in heard]
    assert topics.index("montage.complete") > topics.index("tile.raw") + 3
    assert complete.acquisition_id == imaged.acquisition_id
    assert complete.acquisition_id.startswith("m-0003-2")


def test_positions_are_nanometres_and_rotation_radians(
    imaged: Imaged, heard: list[tuple[str, Any]]
) -> None:
    (complete,) = [message for topic, message in heard if topic == "montage.complete"]
    # 64 px with 25 % overlap: 48 px of 4 nm from tile to tile, about the origin
    places = {
        tile.raster_position: tile.stage_position for tile in complete.tiles.values()
    }
    assert places == {
        (0, 0): (-96, -96),
        (1, 0): (96, -96),
        (1, 1): (96, 96),
        (0, 1): (-96, 96),
    }
    order = sorted(complete.tiles.values(), key=lambda tile: tile.raster_index)
    assert [t.raster_position for t in order] == [(0, 0), (1, 0), (1, 1), (0, 1)]
    assert (complete.pixel_size, complete.rotation_angle) == (4.0, 0.0)


def test_every_message_lies_beside_the_frames_word_for_word(
    imaged: Imaged, heard: list[tuple[str, Any]]
) -> None:
    for topic, message in heard:
        if topic == "tile.raw":
            body = (imaged.folder / f"{message.tile_id}.json").read_text()
            assert body == message.model_dump_json()
            assert message.overlap == 16
        if topic == "montage.complete":
            path = imaged.folder / f"{imaged.acquisition_id}.complete.json"
            assert json.loads(path.read_text()) == json.loads(message.model_dump_json())


def test_progress_is_said_with_each_tile(
    imaged: Imaged, heard: list[tuple[str, Any]]
) -> None:
    statuses = [message for topic, message in heard if topic == "montage.status"]
    assert [s.state for s in statuses] == ["started", *["in_progress"] * 4, "completed"]
    assert [s.current_tile for s in statuses] == [0, 1, 2, 3, 4, 4]
    assert {s.total_tiles for s in statuses} == {4}
    assert statuses[3].avg_cycle_time_ms > 0
    assert statuses[3].estimated_completion is not None


def test_the_truth_agrees_with_the_stage(imaged: Imaged) -> None:
    path = imaged.folder / f"{imaged.acquisition_id}.truth.json"
    truth = MontageTruth.model_validate_json(path.read_bytes())
    assert truth.section == 3
    first = truth.tiles[tile_name(imaged.acquisition_id, 0, 0)]
    assert (first.nominal_y_px, first.nominal_x_px) == (-24 - 32, -24 - 32)


def test_several_montages_follow_each_other(
    devices: None, open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    made = list(session(open_bus("session"), rig_settings).image([plan(1), plan(2)]))
    assert [each.montage_id for each in made] == ["m-0001", "m-0002"]
    assert all(len(list(each.folder.glob("*.tiff"))) == 4 for each in made)


def test_a_run_in_the_same_second_gets_an_id_of_its_own(tmp_path: Path) -> None:
    ids = [reserve_id(tmp_path, "m-1", NOW) for _ in range(3)]
    assert ids == [
        "m-1-20261121t101500",
        "m-1-20261121t101500a",
        "m-1-20261121t101500b",
    ]


def test_without_a_camera_the_montage_ends_in_one_sentence(
    serve: Callable[..., Any],
    open_bus: Callable[[str], Bus],
    rig_settings: Settings,
    heard: list[tuple[str, Any]],
) -> None:
    serve(Scope, rig_settings)
    serve(Stage, rig_settings)
    alone = session(
        open_bus("session"), rig_settings, request_timeout_s=0.3, request_tries=2
    )
    with pytest.raises(
        DeviceError,
        match=r"camera\.settings .* was not answered by camera\.status in 2 tries",
    ):
        list(alone.image([plan()]))


def test_a_position_beyond_the_limits_ends_the_montage_and_is_said(
    devices: None,
    open_bus: Callable[[str], Bus],
    rig_settings: Settings,
    heard: list[tuple[str, Any]],
) -> None:
    far = plan(rows=20_000)
    with pytest.raises(DeviceError, match="beyond the limit"):
        list(session(open_bus("session"), rig_settings).image([far]))
    status = wait_for_end(heard)
    assert status.state == "error"
    assert "beyond the limit" in status.error_message


def test_a_camera_that_starts_late_is_asked_again(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    serve(Scope, rig_settings)
    serve(Stage, rig_settings)
    late = threading.Timer(1.0, serve, (Camera, rig_settings))
    late.start()
    (made,) = session(open_bus("session"), rig_settings).image([plan()])
    late.join()
    assert made.tiles == 4


def test_an_outage_of_the_broker_loses_no_tile(
    serve: Callable[..., Any],
    open_bus: Callable[[str], Bus],
    rig_settings: Settings,
    heard: list[tuple[str, Any]],
    restart_broker: Callable[[], None],
) -> None:
    for kind in (Scope, Stage, Camera):
        serve(kind, rig_settings)
    breaks = threading.Timer(0.15, restart_broker)
    breaks.start()
    (made,) = session(open_bus("session"), rig_settings).image(
        [plan(rows=4, columns=4)]
    )
    breaks.join()
    assert made.tiles == 16
    wait_for_end(heard)
    said = {message.tile_id for topic, message in heard if topic == "tile.raw"}
    assert len(said) == 16
    assert len(list(made.folder.glob("*.tiff"))) == 16
