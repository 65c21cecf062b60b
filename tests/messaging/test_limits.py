"""No field of a message reaches a service beyond what tables, arrays, files hold."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stomp

from em_platform.acquisition.recorder.reconcile import scan_folder
from em_platform.config import BrokerSettings
from em_platform.errors import MessageRejected
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus
from em_platform.messaging.mailboxes import read
from em_platform.messaging.topics import fitting
from tests.messages import CAMERA, TILE

END = {
    "montage_id": "m",
    "acquisition_id": "a",
    "start_time": "2026-01-02T03:04:05Z",
    "pixel_size": 4.0,
    "rotation_angle": 0.5,
    "aperture_centroid": (7, 8),
    "tiles": {},
}
REGION = {"vertices": [], "rotation_angle": 0, "buffer_size": 0, "montage_id": "m"}
NAN, INFINITE = float("nan"), float("inf")
PLACE = {"raster_index": 0, "stage_position": (0, 0), "raster_position": (0, 0)}

BEYOND: list[Any] = [
    ("tile.raw", TILE, {"row": 2**63}, "row: found an integer beyond 64 bits"),
    ("tile.raw", TILE, {"column": -(10**30)}, "column: found an integer beyond 64"),
    ("tile.raw", TILE, {"row": 10**7}, "row: found 10000000, expected -10,000 to"),
    ("tile.raw", TILE, {"stage_position": (0, 2**62)}, "stage_position.1: found 4611"),
    ("tile.raw", TILE, {"overlap": -1}, "overlap: found -1, expected 0 to"),
    ("tile.raw", TILE, {"tile_id": "a\0b"}, "tile_id: found a NUL character"),
    ("tile.raw", TILE, {"path": "/a\0b"}, "path: found a NUL character"),
    ("tile.raw", TILE, {"montage_id": "x" * 201}, "montage_id: found 201 characters"),
    ("tile.raw", TILE, {"tilt_angle": NAN}, "tilt_angle: found nan, expected"),
    ("camera.status", CAMERA, {"width": 0}, "width: found 0, expected 1 to"),
    ("camera.status", CAMERA, {"height": -5}, "height: found -5, expected 1 to"),
    ("camera.status", CAMERA, {"gain": INFINITE}, "gain: found inf, expected a"),
    ("roi.current", REGION, {"metadata": {"a": [0, NAN]}}, "metadata.a.1: found nan"),
    ("roi.current", REGION, {"metadata": {"a": [-INFINITE]}}, "a.0: found -inf"),
    ("roi.current", REGION, {"metadata": {"a": [1, 2**63]}}, "a.1: found an integer"),
    ("roi.current", REGION, {"metadata": {"a": [0.5] * 20 + [NAN]}}, "a.20: found nan"),
    (
        "roi.current",
        REGION,
        {"metadata": {"a": [0] * 9 + [2**63]}},
        "a.9: found an int",
    ),
    ("roi.current", REGION, {"metadata": {"a": [0] * 9 + ["\0"]}}, "a.9: found a NUL"),
    ("montage.complete", END, {"pixel_size": 0.0}, "pixel_size: found 0.0, expected"),
    ("montage.complete", END, {"tiles": {"a\0": PLACE}}, "tiles: one of its names"),
]


@pytest.mark.parametrize(("topic", "fields", "changed", "sentence"), BEYOND)
def test_a_field_beyond_the_limits_is_refused_on_both_ends(
    topic: str, fields: Any, changed: Any, sentence: str
) -> None:
    body = json.dumps({**fields, **changed})
    with pytest.raises(MessageRejected) as caught:
        read(topic, body, {"source": "camera_1"})
    assert sentence in str(caught.value)
    assert f"{topic} from camera_1 was dropped" in str(caught.value)
    with pytest.raises(MessageRejected) as caught:
        fitting(topic, {**fields, **changed})
    assert sentence in str(caught.value)
    assert "was not sent" in str(caught.value)


def test_what_is_within_the_limits_is_taken() -> None:
    raw: Any = read("tile.raw", json.dumps(TILE), {"sent_at": "1763800000000"})
    assert raw.row == 0
    tiles = {"m_000_000": {**PLACE, "raster_position": (-10_000, 10_000)}}
    end: Any = read("montage.complete", json.dumps({**END, "tiles": tiles}), {})
    assert list(end.tiles) == ["m_000_000"]


def test_the_names_in_metadata_are_those_of_whoever_adds_it() -> None:
    fitting("roi.current", {**REGION, "metadata": {"width": 0, "in": {"row": 10**9}}})
    with pytest.raises(MessageRejected, match=r"metadata\.in\.row: found an integer"):
        fitting("roi.current", {**REGION, "metadata": {"in": {"row": 2**63}}})


@pytest.mark.parametrize("version", ["²", "٣.0", "", "."])
def test_a_version_that_is_no_number_leaves_the_decision_to_the_fields(
    version: str,
) -> None:
    message: Any = read("tile.raw", json.dumps(TILE), {"version": version})
    assert message.tile_id == "t1"


@pytest.mark.parametrize("sent_at", ["9" * 400, "9" * 5000, "²", "-1", "1e3", "soon"])
def test_a_time_of_sending_that_is_none_is_refused(sent_at: str) -> None:
    with pytest.raises(MessageRejected) as caught:
        read("tile.raw", json.dumps(TILE), {"sent_at": sent_at})
    assert "expected milliseconds since 1970" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_sentence_shows_what_strangers_wrote_short_and_on_one_line() -> None:
    name = "a\n" * 3000
    with pytest.raises(MessageRejected) as caught:
        read("tile.raw", json.dumps({**TILE, name: 1}), {"source": name})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_body_beside_the_frames_is_held_to_the_same_limits(tmp_path: Path) -> None:
    (tmp_path / "t1.json").write_text(json.dumps(TILE))
    (tmp_path / "t2.json").write_text(json.dumps({**TILE, "row": 2**63}))
    found = scan_folder(tmp_path, recorded=(), is_complete=lambda _: True)
    assert [message.body["tile_id"] for message in found] == ["t1"]


@pytest.fixture
def port() -> Iterator[int]:
    with Broker(BrokerSettings(port=0)) as broker:
        yield broker.port


@pytest.fixture
def bus(port: int) -> Iterator[Bus]:
    with Bus(BrokerSettings(port=port), "one") as bus:
        bus.connect()
        yield bus


def test_nothing_that_a_message_holds_ends_the_receiver(port: int, bus: Bus) -> None:
    received: list[Any] = []
    bus.subscribe("tile.raw", lambda message, _: received.append(message.tile_id))
    sender: Any = stomp.Connection12([("127.0.0.1", port)])
    sender.connect(wait=True)
    good = json.dumps(TILE)
    for version in ("²", "9" * 5000):
        sender.send("tile.raw", good, headers={"version": version})
    for sent_at in ("9" * 400, "9" * 5000):
        sender.send("tile.raw", good, headers={"sent_at": sent_at})
    for topic, fields, changed, _ in BEYOND:
        if topic == "tile.raw":
            sender.send(topic, json.dumps({**fields, **changed}))
    sender.send("tile.raw", json.dumps({**TILE, "tile_id": "last"}))
    deadline = time.monotonic() + 10
    while "last" not in received:
        assert time.monotonic() < deadline, received
        time.sleep(0.01)
    sender.disconnect()
    # A version of 5,000 digits is a newer one.
    assert received == ["t1", "last"]
    assert bus.rejected == 3 + sum(topic == "tile.raw" for topic, *_ in BEYOND)
    assert bus.reconnects == bus.failed == 0
