"""Requests to our own services, as a browser or a sender may make them, changed."""

import hashlib
import json
import random
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.fuzz_mutations import VALUES, WORDS, mutated_json, mutation_of
from em_platform.errors import SourceRefused

_PASSWORD = "let me in"
_ACQUISITION = "m1-20260102t030405"
_PLACES = ("0", "1", "-1", "a", "9" * 30, "9" * 5000, "%00", "..%2F..", "é", "1e9")
_KINDS = ("application/json", "text/plain", "application/json; charset=utf-7", "")
_COMMANDS: dict[str, dict[str, Any]] = {
    "/api/control": {"name": "Ada", "take_over": True},
    "/api/control/heartbeat": {},
    "/api/control/release": {},
    "/api/stop": {"when": "now"},
    "/api/run": {"command": "start"},
    "/api/setup": {"routine": "auto_focus"},
    "/api/queue": {"remove": ["m-0007"], "reorder": ["a"]},
    "/api/roi/load": {"specimen_id": "S", "section_id": "1", "aperture_id": 1,
                      "queue_position": 1},
    "/api/roi": {"montage_id": "m-0008", "roi_name": "a", "aperture_id": 2, "rows": 3,
                 "columns": 2, "center_x_um": 1.0, "center_y_um": -2.5,
                 "overlap_percent": 10, "calibrations": ["auto_focus"],
                 "queue_position": 1},
    "/api/login": {"password": _PASSWORD},
}  # fmt: skip
_READ = ("/", "/health", "/login", "/api/about", "/api/state", "/page/{}",
         "/api/tiles/{}/{}", "/api/tiles/{}/{}/full", "/api/pictures/{}")  # fmt: skip


def ask_operator(draw: random.Random, seeds: Path, folder: Path) -> None:
    """Messages on the operator's board, then a request as its page sends it."""
    from em_platform.config import OperatorSettings, Settings
    from em_platform.operator.api import application
    from em_platform.operator.shared_board import SharedBoard

    settings = Settings(home=folder)
    chosen = OperatorSettings.model_validate({"token": _PASSWORD})
    acquisition = settings.acquisition.model_copy(update={"operator": chosen})
    settings = settings.model_copy(update={"acquisition": acquisition})
    shared = SharedBoard(_bus(), control_timeout_s=60, clock=lambda: 1000.0)
    with shared.locked() as board:
        topics = sorted(board.topics)
    for topic in draw.sample(topics, draw.randrange(6)):
        _publish(shared, topic, draw)
    app = application(shared, settings, about={})
    headers = {"Authorization": f"Bearer {_PASSWORD}", "Content-Type": _KINDS[0],
               "X-Control-Token": shared.control.take("Ada")}  # fmt: skip
    if draw.random() < 0.2:
        name = draw.choice((*headers, "Host", "Origin", "Cookie", "Content-Length"))
        words = [word.strip() for word in (*WORDS, *_KINDS) if word.isprintable()]
        headers[name] = draw.choice(words)
    method, path, content = "GET", draw.choice(_READ), None
    if draw.random() < 0.7:
        method, path = "POST", draw.choice(sorted(_COMMANDS))
        content = _changed(_COMMANDS[path], draw)
    with _client(app) as client:
        refused = None
        try:
            _send(client, method, path, draw, headers, content)
        except SourceRefused as error:
            refused = error
        # Whatever came, the page can be shown.
        known = {"Authorization": f"Bearer {_PASSWORD}"}
        state = client.get("/api/state", headers=known)
        assert state.status_code == 200, state.text[:300]
    if refused is not None:
        raise refused


def _publish(shared: Any, topic: str, draw: random.Random) -> None:
    """A message to the board, where the bus lets it through."""
    from pydantic import ValidationError

    from benchmarks.fuzz_seeds import message_bodies
    from em_platform.errors import PlatformError
    from em_platform.messaging.topics import read_body

    content = message_bodies()[topic]
    if draw.random() < 0.7:
        content = mutated_json(content, draw)
    try:
        message = read_body(topic, content)
    except (PlatformError, ValidationError):
        return
    headers = {"topic": topic, "service": "a", "hostname": "here", "pid": "7"}
    shared.receive(message, headers)


@cache
def _bus() -> Any:
    """The operator's end of a bus; its broker serves as long as this process."""
    from em_platform.config import BrokerSettings
    from em_platform.messaging.broker import Broker
    from em_platform.messaging.bus import Bus

    broker = Broker(BrokerSettings(port=0))
    broker.__enter__()
    bus = Bus(BrokerSettings(port=broker.port), "operator", send_timeout_s=5.0)
    bus.connect(10)
    return bus


def send_to_aloha(draw: random.Random, seeds: Path, folder: Path) -> None:
    """An announcement, its tiles and its end, as a sender may get them wrong."""
    from em_platform.aloha.app import make_app
    from em_platform.config import AlohaSettings

    settings = AlohaSettings(chunk_px=64, min_free_gb=0, tile_limit_mb=4)
    frame = (seeds / "files" / draw.choice(("zlib1.tif", "plain1.tif"))).read_bytes()
    if draw.random() < 0.6:
        frame = mutation_of("a.tif", frame, draw)(frame, draw)
    announced = _announcement(frame)
    changed = _changed(announced, draw) if draw.random() < 0.5 else None
    body = json.dumps(announced).encode() if changed is None else changed
    tile = f"{_ACQUISITION}/tiles/{_ACQUISITION}_000_000"
    calls: list[tuple[str, str, bytes | None]] = [
        ("PUT", _ACQUISITION, body),
        ("PUT", tile, frame),
        ("GET", _ACQUISITION, None),
        ("POST", f"{_ACQUISITION}/complete", None),
        ("POST", f"{_ACQUISITION}/abort?reason=x", None),
        ("PUT", "{}/tiles/{}", frame),
    ]
    # Mostly in their order, so that a frame meets its announcement.
    calls = calls[:4] if draw.random() < 0.7 else draw.sample(calls, 4)
    headers = {"Authorization": f"Bearer {_PASSWORD}"}
    with _acquisitions(folder, settings) as acquisitions:
        waiters, workers = _pools()
        app = make_app(acquisitions, token=_PASSWORD, settings=settings,
                       waiters=waiters, workers=workers)  # fmt: skip
        refused = None
        with _client(app) as client:
            for method, place, content in calls:
                path = f"/api/v1/acquisitions/{place}"
                try:
                    _send(client, method, path, draw, headers, content)
                except SourceRefused as error:
                    refused = refused or error
        left = list(acquisitions.scratch.iterdir())
        assert not left, f"left in scratch: {left[0].name}"
        if refused is not None:
            raise refused


def _announcement(frame: bytes) -> dict[str, Any]:
    tile = {"tile_id": f"{_ACQUISITION}_000_000", "raster_index": 0, "row": 0,
            "column": 0, "stage_x_nm": 0, "stage_y_nm": 0, "bytes": len(frame),
            "sha256": hashlib.sha256(frame).hexdigest()}  # fmt: skip
    return {"acquisition_id": _ACQUISITION, "montage_id": "m1", "pixel_nm": 4.0,
            "started_at": "2026-01-02T03:04:05Z", "tiles": [tile],
            "tile_size": {"height_px": 48, "width_px": 40}}  # fmt: skip


@contextmanager
def _acquisitions(folder: Path, settings: Any) -> Iterator[Any]:
    from em_platform.aloha.acquisitions import Acquisitions
    from em_platform.storage import open_store
    from em_platform.temdb.register import Register

    # Port 9 discards, and on this computer nothing listens there.
    nobody = Register("http://127.0.0.1:9", "token", timeout_s=1)
    store = open_store(str(folder / "data"))
    found = Acquisitions(folder / "aloha", store, nobody, settings)
    try:
        yield found
    finally:
        found.journal.close()


@cache
def _pools() -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
    return ThreadPoolExecutor(2), ThreadPoolExecutor(1)


def _changed(body: dict[str, Any], draw: random.Random) -> bytes:
    if not body or draw.random() < 0.1:
        return json.dumps(draw.choice(VALUES)).encode()
    return mutated_json(json.dumps(body).encode(), draw)


def _client(app: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # httpx2 is not out
        from starlette.testclient import TestClient

    # The gate asks for the owners of both ends.
    return TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))


def _send(
    client: Any,
    method: str,
    path: str,
    draw: random.Random,
    headers: dict[str, str],
    content: bytes | None,
) -> None:
    """Send it; SourceRefused with the sentence of an answer that refuses."""
    while "{}" in path:
        path = path.replace("{}", draw.choice(_PLACES), 1)
    encoded = {k: v.encode("utf-8", "replace") for k, v in headers.items()}
    answer = client.request(method, path, content=content, headers=encoded)
    # 503: nobody registers what aloha has.
    ours = answer.status_code >= 500 and answer.status_code != 503
    assert not ours, (method, path, answer.text[:300])
    if answer.status_code >= 400:
        shown = answer.json()
        raise SourceRefused(str(shown.get("error") or shown.get("detail")))
