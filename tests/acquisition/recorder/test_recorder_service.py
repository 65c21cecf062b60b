import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from TEM_comms.montage import Complete
from TEM_comms.tile import Raw

from em_platform.acquisition.recorder.events import Message
from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.acquisition.recorder.service import RecorderService
from em_platform.config import BrokerSettings
from em_platform.errors import PlatformError
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus

SCOPE = {
    "focus": 1,
    "aperture": None,
    "mag_mode": "MAG",
    "tank_voltage": 120,
    "brightness": 1300,
    "beam_offset": (0, 0),
    "spot_size": 1,
    "screen": None,
}


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path / 'events.sqlite'}") as recorder:
        yield recorder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return tmp_path / "frames"


@pytest.fixture
def session(recorder: Ledger, frames: Path) -> Iterator[Bus]:
    """A bus to speak on; a recorder listens."""
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(BrokerSettings(port=0)))
        settings = BrokerSettings(port=broker.port)
        bus = stack.enter_context(Bus(settings, "recorder"))
        session = stack.enter_context(Bus(settings, "session"))
        bus.connect()
        session.connect()
        stack.enter_context(closing(RecorderService(bus, recorder, frames=frames)))
        yield session


def tiles_of(montage_id: str) -> list[dict[str, Any]]:
    return [
        Raw(
            tile_id=f"{montage_id}_000_{column:03d}",
            montage_id=montage_id,
            row=0,
            column=column,
            overlap=8,
            path="/nowhere.tiff",
        ).model_dump(mode="json")
        for column in range(3)
    ]


def end_of(montage_id: str, raws: list[dict[str, Any]]) -> dict[str, Any]:
    place = {"raster_index": 0, "stage_position": (0, 0), "raster_position": (0, 0)}
    return Complete(
        montage_id=montage_id,
        tiles={raw["tile_id"]: place for raw in raws},
        acquisition_id=f"acq-{montage_id}",
        start_time="2026-01-02T03:04:05Z",
        pixel_size=4.0,
        rotation_angle=0.0,
        aperture_centroid=(0, 0),
    ).model_dump(mode="json")


def leave_beside_frames(frames: Path, raws: list[dict[str, Any]]) -> None:
    for raw in raws:
        path = frames / raw["montage_id"] / f"{raw['tile_id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(raw))


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_what_is_said_is_recorded_in_the_order_of_saying(
    session: Bus, recorder: Ledger
) -> None:
    raws = tiles_of("m")
    for raw in raws:
        session.publish("tile.raw", **raw)
    session.publish("qc.status", status="GOOD")
    session.publish("montage.complete", **end_of("m", raws))
    session.publish("qc.status", status="STOP_AT_END", reason="blurred")
    wait_until(lambda: len(recorder.events()) == 6)
    topics = [event.topic for event in recorder.events()]
    assert topics == ["tile.raw"] * 3 + ["qc.status", "montage.complete", "qc.status"]
    last = recorder.events()[-1]
    assert last.body == {"status": "STOP_AT_END", "reason": "blurred"}
    assert last.headers["service"] == "session"
    assert last.headers["sent_at"].isdecimal()


def test_frames_that_nobody_heard_of_are_recorded_before_the_completion(
    session: Bus, recorder: Ledger, frames: Path
) -> None:
    raws = tiles_of("m")
    leave_beside_frames(frames, raws)
    session.publish("tile.raw", **raws[1])
    session.publish("montage.complete", **end_of("m", raws))
    wait_until(lambda: bool(recorder.montages()))
    assert [event.topic for event in recorder.events()][:3] == ["tile.raw"] * 3
    assert len(recorder.events()) == 4


def test_a_frame_for_the_operators_screen_is_not_recorded(
    session: Bus, recorder: Ledger
) -> None:
    (raw, *_) = tiles_of("m")
    session.publish("tile.raw", **{**raw, "montage_id": ""})
    session.publish("qc.status", status="GOOD")
    wait_until(lambda: bool(recorder.events()))
    assert [event.topic for event in recorder.events()] == ["qc.status"]


def test_what_is_sent_each_second_is_recorded_when_it_changes(
    session: Bus, recorder: Ledger
) -> None:
    for mag in (1000, 1000, 2000, 2000, 1000):
        session.publish("scope.status", mag=mag, **SCOPE)
    for status, reason in (
        *(("GOOD", None), ("GOOD", None), ("STOP_AT_END", "a"), ("STOP_AT_END", "b")),
        *(("STOP_AT_END", "b"), ("GOOD", None), ("STOP_NOW", "c")),
    ):
        session.publish("qc.status", status=status, reason=reason)
    wait_until(lambda: "STOP_NOW" in str(recorder.events(topics=["qc.status"])))
    events = recorder.events(topics=["scope.status"])
    assert [e.body["mag"] for e in events] == [1000, 2000, 1000]
    verdicts = [e.body for e in recorder.events(topics=["qc.status"])]
    reasons = [body["reason"] for body in verdicts]
    assert reasons == [None, "a", "b", None, "c"]


def test_a_tile_with_a_broken_body_is_passed_over_and_the_next_recorded(
    session: Bus, recorder: Ledger
) -> None:
    raws = tiles_of("m")
    session.publish("tile.raw", **raws[0])
    with pytest.raises(Exception, match="no_such_field"):
        session.publish("tile.raw", **raws[1], no_such_field=1)
    session.publish("tile.raw", **raws[2])
    wait_until(lambda: len(recorder.events()) == 2)


def test_a_message_that_no_table_holds_is_left_out_and_the_others_are_recorded(
    recorder: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    # As no receiver lets it through: half a character is no Unicode.
    ids = ("a", "\ud800", "b")
    messages = [Message("tile.raw", {"montage_id": name}, {}) for name in ids]
    first, refused, last = recorder.append_all(messages)
    assert refused is None
    assert [e.body["montage_id"] for e in recorder.events()] == ["a", "b"]
    assert [e.seq for e in recorder.events()] == [first, last]
    (sentence,) = [record.getMessage() for record in caplog.records]
    assert "tile.raw (tile none, montage '\\ud800') is left out" in sentence


def test_a_writer_that_has_ended_ends_the_process(
    recorder: Ledger, frames: Path
) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(BrokerSettings(port=0)))
        settings = BrokerSettings(port=broker.port)
        bus = stack.enter_context(Bus(settings, "recorder"))
        bus.connect()
        service = RecorderService(bus, recorder, frames=frames)
        service.tick()
        service.close()  # The thread has ended, for whatever reason.
        with pytest.raises(PlatformError, match="the writing thread has ended"):
            service.tick()
