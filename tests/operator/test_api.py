import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest

from em_platform.acquisition.frame_paths import frame_path, frames_folder
from em_platform.config import Settings
from em_platform.formats.image import write_tiff
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus
from em_platform.operator.shared_board import SharedBoard
from em_platform.stitching.sidecar_files import processed_path

PENDING = {"montage_id": "m-0007", "status": "pending", "timestamp": 1}


@pytest.fixture
def page(open_page: Callable[..., httpx.Client]) -> httpx.Client:
    return open_page()


@pytest.fixture
def microscope(open_bus: Callable[[str], Bus]) -> Bus:
    """Another service on the bus; it receives what the page asks for."""
    bus = open_bus("coordinator")
    for topic in ("ui.run", "ui.setup", "roi.create", "roi.load", "roi.queue.update"):
        bus.latest(topic)
    return bus


def in_state(
    microscope: Bus, shared: SharedBoard, wait_for: Callable[..., None], state: str
) -> None:
    microscope.publish("state.current", state=state)
    microscope.publish(
        "roi.queue.status", queue=[PENDING], completed_count=0, timestamp=1
    )

    def is_shown() -> bool:
        with shared.locked() as board:
            return bool(board.parts.get("queue"))

    wait_for(is_shown)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    import time

    def wait(truth: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not truth():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    return wait


def take(page: httpx.Client, name: str = "Ada", **more: Any) -> dict[str, str]:
    """The headers of one who has control."""
    answer = page.post("/api/control", json={"name": name, **more})
    assert answer.status_code == 200, answer.text
    return {"X-Control-Token": answer.json()["token"]}


def test_the_page_and_its_modules_are_served(page: httpx.Client) -> None:
    assert "Stop now" in page.get("/").text
    module = page.get("/page/app.js")
    assert "javascript" in module.headers["content-type"]
    assert page.get("/page/nothing.js").json()["error"] == (
        "page: it has no file nothing.js"
    )
    for name in ("..%2Fapi.py", "x" * 5000):
        assert page.get(f"/page/{name}").status_code == 404


def test_a_command_needs_control(page: httpx.Client, microscope: Bus) -> None:
    for path, body in (
        ("/api/run", {"command": "start"}),
        ("/api/setup", {"routine": "auto_focus"}),
        ("/api/queue", {"remove": ["m-0007"]}),
        ("/api/roi/load", {"specimen_id": "S", "section_id": "1"}),
    ):
        answer = page.post(path, json=body)
        assert answer.status_code == 403
        assert "take control first" in answer.json()["error"]
    assert microscope.latest("ui.run") is None


def test_start_reaches_the_microscope_in_preview_alone(
    page: httpx.Client,
    shared: SharedBoard,
    microscope: Bus,
    wait_for: Callable[..., None],
) -> None:
    token = take(page)
    refused = page.post("/api/run", json={"command": "start"}, headers=token)
    assert refused.status_code == 409
    assert "no coordinator has published its state yet" in refused.json()["error"]
    in_state(microscope, shared, wait_for, "Preview_UpdateImage")
    sent = page.post("/api/run", json={"command": "start"}, headers=token)
    assert sent.status_code == 200
    assert microscope.wait_for("ui.run", lambda m: m.start, 10).start
    refused = page.post("/api/run", json={"command": "pause"}, headers=token)
    assert refused.status_code == 409
    assert "only a running acquisition can pause" in refused.json()["error"]


@pytest.mark.parametrize(
    ("when", "field"), [("now", "abort_now"), ("at_end", "abort_at_end")]
)
def test_anybody_may_stop(
    page: httpx.Client, microscope: Bus, when: str, field: str
) -> None:
    take(page)
    assert page.post("/api/stop", json={"when": when}).status_code == 200
    assert microscope.wait_for("ui.run", lambda m: getattr(m, field), 10)


def test_a_take_over_ends_the_former_control(page: httpx.Client) -> None:
    first = take(page, "Ada")
    refused = page.post("/api/control", json={"name": "Bob"})
    assert refused.status_code == 403
    assert refused.json()["holder"] == "Ada"
    second = take(page, "Bob", take_over=True)
    assert page.post("/api/control/heartbeat", json={}, headers=first).is_error
    beat = page.post("/api/control/heartbeat", json={}, headers=second)
    assert beat.json() == {"holder": "Bob"}
    control = page.get("/api/state").json()["parts"]["control"]
    assert control["holder"] == "Bob"
    page.post("/api/control/release", json={}, headers=second)
    assert page.get("/api/state").json()["parts"]["control"]["holder"] == ""


def test_a_region_goes_to_the_queue(
    page: httpx.Client,
    shared: SharedBoard,
    microscope: Bus,
    wait_for: Callable[..., None],
) -> None:
    in_state(microscope, shared, wait_for, "Preview")
    token = take(page)
    form = {"montage_id": "m-0008", "aperture_id": 2, "rows": 3, "columns": 2}
    answer = page.post(
        "/api/roi", json={**form, "calibrations": ["auto_focus"]}, headers=token
    )
    assert answer.status_code == 200, answer.text
    made = microscope.wait_for("roi.create", lambda m: True, 10)
    assert (made.montage_id, made.aperture_id, made.queue_position) == ("m-0008", 2, 1)
    assert made.calibrations.auto_focus and not made.calibrations.dark_field
    twice = page.post("/api/roi", json={**form, "montage_id": "m-0007"}, headers=token)
    assert twice.status_code == 409
    assert "in the queue already" in twice.json()["error"]


def test_the_queue_is_changed_only_as_it_stands(
    page: httpx.Client,
    shared: SharedBoard,
    microscope: Bus,
    wait_for: Callable[..., None],
) -> None:
    in_state(microscope, shared, wait_for, "Preview")
    token = take(page)
    for body in ({"remove": ["m-0099"]}, {"reorder": ["m-0007", "m-0099"]}, {}):
        answer = page.post("/api/queue", json=body, headers=token)
        assert answer.status_code == 409
        assert answer.json()["error"].startswith("queue: ")
    page.post("/api/queue", json={"remove": ["m-0007"]}, headers=token)
    update = microscope.wait_for("roi.queue.update", lambda m: True, 10)
    assert update.remove == ["m-0007"]
    assert update.reorder is None


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/api/control", {"name": "  "}, "name"),
        ("/api/run", {"command": "abort_now"}, "command"),
        ("/api/roi", {"montage_id": "../x", "aperture_id": 1}, "montage_id"),
        (
            "/api/roi",
            {"montage_id": "m", "aperture_id": 1, "rows": 2},
            "give rows and columns, or width and height",
        ),
        ("/api/stop", {"when": "later"}, "when"),
        ("/api/stop", {"when": "now", "more": 1}, "more"),
    ],
)
def test_a_wrong_body_is_refused_in_one_sentence(
    page: httpx.Client, path: str, body: dict[str, Any], sentence: str
) -> None:
    answer = page.post(path, json=body)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_command_from_another_page_is_refused(page: httpx.Client) -> None:
    body = '{"when": "now"}'
    plain = page.post("/api/stop", content=body, headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    foreign = page.post(
        "/api/stop", json={"when": "now"}, headers={"Origin": "http://evil.example"}
    )
    assert foreign.status_code == 403
    own = page.post(
        "/api/stop",
        json={"when": "now"},
        headers={"Origin": str(page.base_url).rstrip("/")},
    )
    assert own.status_code == 200


def test_a_name_that_is_not_the_pages_own_is_refused(page: httpx.Client) -> None:
    answer = page.get("/api/state", headers={"Host": "evil.example:8400"})
    assert answer.status_code == 421
    assert "evil.example" in answer.json()["error"]
    assert page.get("/api/state", headers={"Host": "localhost:1"}).status_code == 200


def test_a_tile_and_its_picture_are_had_by_their_addresses(
    page: httpx.Client,
    shared: SharedBoard,
    microscope: Bus,
    of_tile: Callable[..., dict[str, Any]],
    jpeg: str,
    wait_for: Callable[..., None],
) -> None:
    assert page.get("/api/tiles/0/0").status_code == 404
    microscope.publish("tile.raw", path="/f.tiff", **of_tile(0, 0))
    microscope.publish("tile.mini", image=jpeg, **of_tile(0, 0))
    wait_for(lambda: (shared.tile(0, 0) or {}).get("mini"))
    assert page.get("/api/tiles/0/0").json()["tile_id"].endswith("_000_000")
    picture = page.get("/api/pictures/mini/0/0")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content.startswith(b"\xff\xd8")


def test_a_tile_is_had_in_full_resolution_by_those_who_may_see_the_page(
    page: httpx.Client,
    open_page: Callable[..., httpx.Client],
    settings: Settings,
    shared: SharedBoard,
    microscope: Bus,
    of_tile: Callable[..., dict[str, Any]],
    wait_for: Callable[..., None],
) -> None:
    assert page.get("/api/tiles/0/0/full").status_code == 404
    tile = of_tile(0, 0)
    microscope.publish("tile.raw", path="/f.tiff", **tile)
    wait_for(lambda: shared.tile(0, 0) is not None)
    missing = page.get("/api/tiles/0/0/full")
    assert missing.status_code == 404
    assert "is not on this disk" in missing.json()["error"]
    frame = np.arange(96 * 128, dtype=np.uint16).reshape(96, 128)
    path = frame_path(frames_folder(settings), tile["montage_id"], tile["tile_id"])
    path.parent.mkdir(parents=True)
    write_tiff(path, frame)
    raw = page.get("/api/tiles/0/0/full")
    assert (raw.headers["content-type"], raw.headers["x-tile"]) == ("image/png", "raw")
    shown = imagecodecs.png_decode(raw.content)
    assert shown.shape == (96, 128)
    assert (shown[0, 0], shown[-1, -1]) == (0, 255)  # 16 bit, stretched
    processed = (frame // 64).astype(np.uint8)
    write_tiff(Path(processed_path(str(path))), processed)
    better = page.get("/api/tiles/0/0/full")
    assert better.headers["x-tile"] == "processed"
    assert np.array_equal(imagecodecs.png_decode(better.content), processed)
    locked = open_page("secret")
    assert locked.get("/api/tiles/0/0/full").status_code == 401


def test_events_begin_with_all_and_go_on_with_what_is_new(
    page: httpx.Client, shared: SharedBoard, microscope: Bus
) -> None:
    with page.stream("GET", "/api/events", timeout=20) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data:"))
        first = json.loads(next(lines).removeprefix("data:"))
        assert first["map"]["anew"]
        assert {"actions", "control"} <= first["parts"].keys()
        microscope.publish("state.current", state="Preview")
        second = json.loads(next(lines).removeprefix("data:"))
        assert second["parts"]["state"]["path"] == ["Preview"]
        assert "control" not in second["parts"]


def test_a_broker_that_is_away_is_reported_to_the_one_who_stops(
    page: httpx.Client, bus: Bus, brokers: list[Broker], wait_for: Callable[..., None]
) -> None:
    brokers[-1].stop()
    wait_for(lambda: not bus.connected)
    answer = page.post("/api/stop", json={"when": "now"})
    assert answer.status_code == 503
    assert "STOMP broker was expected" in answer.json()["error"]
    assert page.get("/api/state").status_code == 200
