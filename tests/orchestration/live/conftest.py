"""A montage on disk as a session leaves it, and the services that look at it."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from em_platform.acquisition.pipeline.journal import Journal
from em_platform.acquisition.pipeline.service import PipelineService
from em_platform.acquisition.qc.service import QcService
from em_platform.acquisition.recorder import ledger_of
from em_platform.config import BrokerSettings, Settings, load_settings
from em_platform.formats import write_tiff
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus
from em_platform.messaging.topics import fitting

SIDE, STEP, FRAME = 560, 370, 60
PIXEL_NM, MONTAGE, KEY = 4, "m", "m-t1"
RESULTS = (
    "tile.statistics.min_max_mean",
    "tile.statistics.focus",
    "tile.statistics.histogram",
    "tile.template_matches",
    "tile.matches",
)
Messages = dict[str, dict[str, Any]]
"""Topic -> tile -> message."""


@dataclass(kw_only=True)
class Session:
    """What was imaged, and what a pipeline made of it."""

    settings: Settings
    raws: list[dict[str, Any]]
    complete: dict[str, Any]
    messages: Messages = field(default_factory=dict)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.settings.home / "frames" / MONTAGE

    def processed(self) -> dict[str, np.ndarray]:
        """Tile -> pixels of what the pipeline left beside the frames."""
        return {
            path.name.removesuffix(".processed.tiff"): tifffile.imread(path)
            for path in sorted(self.folder.glob("*.processed.tiff"))
        }

    def image_in_order(self, raws: list[dict[str, Any]]) -> None:
        """Let the files be as old as if the frames had been imaged in this order."""
        begun_s = time.time() - 60
        for second, raw in enumerate(raws):
            at_s = begun_s + second
            os.utime(Path(raw["path"]).with_suffix(".json"), (at_s, at_s))

    def record(self) -> None:
        with ledger_of(self.settings) as recorder:
            assert recorder.reconcile_montage(self.folder) == len(self.raws) + 1

    def run_pipeline(self, journal: str) -> Messages:
        """One process that finds all frames on the disk; its messages."""
        settings, count = self.settings, len(self.raws)
        with subscribed(settings, *RESULTS) as messages, ExitStack() as stack:
            bus = stack.enter_context(Bus(settings.broker, "pipeline"))
            bus.connect(5.0)
            noted = Journal(settings.home / "pipeline" / journal, worker=journal)
            stack.enter_context(ticking(PipelineService(bus, noted, settings)))
            wait_until(lambda: all(len(messages[topic]) == count for topic in RESULTS))
        return messages

    def verdicts(self, home: str, *, hears: bool) -> dict[str, Any]:
        """Of a quality control that hears all of the tiles, or only their list."""
        acquisition = self.settings.acquisition.model_copy(
            update={"frames": str(self.folder.parent)}
        )
        own = {"home": self.settings.home / home, "acquisition": acquisition}
        settings = self.settings.model_copy(update=own)
        with subscribed(settings, "qc.tile") as messages, ExitStack() as stack:
            one, other = (
                stack.enter_context(Bus(settings.broker, n)) for n in ("qc", "session")
            )
            one.connect(5.0)
            other.connect(5.0)
            stack.enter_context(ticking(QcService(one, settings)))
            for raw in self.raws if hears else ():
                other.publish("tile.raw", **raw)
                for topic in RESULTS:
                    message = self.messages[topic][raw["tile_id"]]
                    other.publish(topic, **message.model_dump())
            if not hears:
                other.publish("montage.complete", **self.complete)
            wait_until(lambda: len(messages["qc.tile"]) == len(self.raws))
        return {
            tile: (each.passed, [fault.model_dump() for fault in each.faults])
            for tile, each in messages["qc.tile"].items()
        }


@contextmanager
def ticking(service: Any) -> Iterator[None]:
    """Run the ticks of a service in a thread; then end it."""
    stop = threading.Event()

    def ticks() -> None:
        while not stop.wait(0.02):
            service.tick()

    thread = threading.Thread(target=ticks)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        service.close()


@contextmanager
def subscribed(settings: Settings, *topics: str) -> Iterator[Messages]:
    """Messages that are published within the block."""
    messages: Messages = defaultdict(dict)
    with Bus(settings.broker, "listener") as bus:
        bus.connect(5.0)
        bus.subscribe_many(
            topics, lambda m, h: messages[h["topic"]].setdefault(m.tile_id, m)
        )
        yield messages


def wait_until(truth: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not truth():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def save_frames(settings: Settings, dtype: np.dtype[Any]) -> Session:
    """A serpentine of 2 x 3 frames with a black frame, in uneven light."""
    shape = (SIDE + 2 * STEP, SIDE + 3 * STEP)
    noise = np.random.default_rng(4).normal(128, 300, shape)
    specimen = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 2)
    light = np.linspace(0.5, 0.9, SIDE, dtype=np.float32)[None].repeat(SIDE, axis=0)
    most = 1 if dtype == np.uint8 else 150
    folder = settings.home / "frames" / MONTAGE
    write_tiff(folder / "bright.tiff", (250 * most * light).astype(dtype))
    session = Session(settings=settings, raws=[], complete={})
    for number, (row, column) in enumerate(
        [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]
    ):
        y, x = row * STEP + 3 * column, column * STEP + 2 * row
        # Each tile is a little brighter than the former: its own range would show.
        level = most * (0.8 + 0.005 * number)
        frame = level * light * specimen[y : y + SIDE, x : x + SIDE]
        frame[:FRAME], frame[-FRAME:], frame[:, :FRAME], frame[:, -FRAME:] = 0, 0, 0, 0
        path = folder / f"{KEY}_{row:03d}_{column:03d}.tiff"
        write_tiff(path, frame.clip(0).astype(dtype))
        raw = {
            "tile_id": path.stem,
            "montage_id": MONTAGE,
            "row": row,
            "column": column,
            "overlap": SIDE - STEP,
            "stage_position": [
                column * STEP * PIXEL_NM + 1,
                row * STEP * PIXEL_NM - 2 * column,
            ],
            "path": str(path),
        }
        write_body(path.with_suffix(".json"), "tile.raw", raw)
        session.raws.append(raw)
    session.complete = complete_of(session.raws)
    end = folder / f"{KEY}.complete.json"
    write_body(end, "montage.complete", session.complete)
    return session


def complete_of(raws: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "montage_id": MONTAGE,
        "tiles": {
            raw["tile_id"]: {
                "raster_index": index,
                "stage_position": raw["stage_position"],
                "raster_position": [raw["column"], raw["row"]],
            }
            for index, raw in enumerate(raws)
        },
        "acquisition_id": KEY,
        "start_time": "2026-01-01T00:00:00Z",
        "pixel_size": float(PIXEL_NM),
        "rotation_angle": 0.0,
        "aperture_centroid": [0, 0],
    }


def write_body(path: Path, topic: str, fields: dict[str, Any]) -> None:
    path.write_text(fitting(topic, fields).model_dump_json())


@pytest.fixture(params=["uint8", "uint16"])
def live(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Session]:
    """The session, when its pipeline has done all tiles; a broker runs."""
    broker = Broker(BrokerSettings(port=0))
    broker.start()
    monkeypatch.setenv("EM_BROKER__PORT", str(broker.port))
    monkeypatch.setenv("EM_ACQUISITION__QC__TILE_WAIT_S", "0.5")
    monkeypatch.setenv("EM_ACQUISITION__PIXEL_NM", str(PIXEL_NM))
    session = save_frames(load_settings(), np.dtype(request.param))
    session.image_in_order(session.raws)
    session.messages = session.run_pipeline("first")
    session.pixels = session.processed()
    yield session
    broker.stop()
