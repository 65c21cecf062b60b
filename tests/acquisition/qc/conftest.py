"""A quality control that listens on a real broker, and what the pipeline would say."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from em_platform.acquisition.qc.service import QcService
from em_platform.config import Settings
from em_platform.messaging.bus import Bus

Say = Callable[..., None]

PARTS = (
    "tile.raw",
    "tile.statistics.min_max_mean",
    "tile.statistics.focus",
    "tile.statistics.histogram",
    "tile.template_matches",
    "tile.matches",
)


def tile_fields(n: int, acquisition: str = "m-1") -> dict[str, Any]:
    """Of tile `n` of one row."""
    return {
        "tile_id": f"{acquisition}_000_{n:03d}",
        "montage_id": "m",
        "row": 0,
        "column": n,
        "overlap": 10,
        "stage_position": (n * 1000, 0),
    }


def message(topic: str, n: int, values: dict[str, Any]) -> dict[str, Any]:
    """The body of one message about tile `n`."""
    edges = [
        {
            "row": 0,
            "column": column,
            "position": "left",
            **dict.fromkeys(("dX", "dY", "dXsd", "dYsd", "distance", "rotation"), 0.0),
            **dict.fromkeys(("pX", "pY", "qX", "qY"), [1.0] * points),
        }
        for column, points in values["edges"]
    ]
    own: dict[str, dict[str, Any]] = {
        "tile.raw": {"path": "/nowhere.tiff"},
        "tile.statistics.min_max_mean": {
            "min": 0,
            "max": 255,
            "mean": values["mean"],
            "std": values["std"],
        },
        "tile.statistics.focus": {"focus": 1 - values["score"]},
        "tile.statistics.histogram": {"hist": values["hist"]},
        "tile.template_matches": {"matches": []},
        "tile.matches": {"matches": edges},
    }
    return {**tile_fields(n), **own[topic]}


@pytest.fixture
def pipeline(open_bus: Callable[[str], Bus]) -> Bus:
    """The bus of what plays pipeline, coordinator and operator."""
    return open_bus("pipeline")


@pytest.fixture
def say(pipeline: Bus) -> Say:
    """Say everything about one tile."""

    def speak(n: int, values: dict[str, Any], parts: tuple[str, ...] = PARTS) -> None:
        for topic in parts:
            pipeline.publish(topic, **message(topic, n, values))

    return speak


@pytest.fixture
def parts_of() -> Callable[..., list[tuple[str, dict[str, Any]]]]:
    """All messages about one tile: topic and body."""
    return lambda n, values: [(topic, message(topic, n, values)) for topic in PARTS]


@pytest.fixture
def live_qc() -> Callable[..., Any]:
    """Run a quality control for a block; its ticks come from a thread."""

    @contextmanager
    def run(settings: Settings) -> Iterator[QcService]:
        stop = threading.Event()
        bus = Bus(settings.broker, "qc")
        bus.connect(5.0)
        service = QcService(bus, settings)

        def ticks() -> None:
            while not stop.wait(0.02):
                service.tick()

        thread = threading.Thread(target=ticks)
        thread.start()
        try:
            yield service
        finally:
            stop.set()
            thread.join(10)
            bus.close()
            service.close()

    return run
