"""A simulated montage whose truth is known, and the services that look at it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from TEM_comms.camera import Command
from TEM_comms.stage.motion import Status as StageStatus

from em_platform.acquisition.frame_paths import frame_path, frames_folder, tile_name
from em_platform.acquisition.montage_fit.service import MontageFitService
from em_platform.acquisition.pipeline.journal import Journal
from em_platform.acquisition.pipeline.service import PipelineService
from em_platform.acquisition.roi import created, roi_of, shared_px, stops_of
from em_platform.config import Settings
from em_platform.formats import write_tiff
from em_platform.messaging.bus import Bus
from em_platform.model import Size
from em_platform.simulation.devices.sensor import Sensor


@dataclass(slots=True, kw_only=True)
class Imaged:
    """Frames on disk, their messages, and where each tile truly lies."""

    raws: list[dict[str, Any]] = field(default_factory=list)
    complete: dict[str, Any] = field(default_factory=dict)
    truth: dict[str, tuple[float, float]] = field(default_factory=dict)
    lens: Any = None


@pytest.fixture
def settings(rig_settings: Settings) -> Settings:
    """Small tiles that can be matched well."""
    return changed(
        rig_settings,
        {
            "acquisition.overlap": 0.2,
            "acquisition.rows": 3,
            "acquisition.columns": 3,
            "acquisition.simulation.tile_px": 384,
            "acquisition.simulation.jitter_px": 8.0,
            "acquisition.montage_fit.period_s": 0.2,
            "acquisition.montage_fit.wait_s": 3.0,
            "stitching.match.search_px": 48,
        },
    )


def changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    """Settings with dotted names changed."""
    values = settings.model_dump()
    for name, value in changes.items():
        *path, last = name.split(".")
        at = values
        for key in path:
            at = at[key]
        at[last] = value
    return Settings.model_validate(values)


@pytest.fixture(name="changed")
def changed_fixture() -> Callable[..., Settings]:
    """`changed`, for tests that cannot import it from here."""
    return changed


@pytest.fixture
def image() -> Callable[..., Imaged]:
    """Make the frames of one montage, as camera and coordinator would."""

    def make(
        settings: Settings, acquisition_id: str = "m-1", *, is_lens: bool = False
    ) -> Imaged:
        acquisition = settings.acquisition
        sensor = Sensor(acquisition)
        size = Size(
            height_px=acquisition.simulation.tile_px,
            width_px=acquisition.simulation.tile_px,
        )
        rows, columns, overlap = (
            acquisition.rows,
            acquisition.columns,
            acquisition.overlap,
        )
        roi = created(roi_of("m", 0, rows, columns, overlap, settings))
        made = Imaged()
        places = {}
        for stop in stops_of(roi, size, pixel_nm=acquisition.pixel_nm, overlap=overlap):
            sensor.stage = StageStatus(
                x=stop.x_nm, y=stop.y_nm, in_motion=False, calibrated=True
            )
            tile_id = tile_name(acquisition_id, stop.row, stop.column)
            fields = {
                "tile_id": tile_id,
                "montage_id": "m",
                "row": stop.row,
                "column": stop.column,
                "overlap": shared_px(roi, size, overlap=overlap),
                "stage_position": (stop.x_nm, stop.y_nm),
            }
            frame = sensor.frame(Command(**fields))
            path = frame_path(frames_folder(settings), "m", tile_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tiff(path, frame.image)
            raw = {**fields, "path": str(path)}
            made.raws.append(raw | ({"lens_correction": True} if is_lens else {}))
            place = frame.tile.placement
            made.truth[tile_id] = (place.y_px, place.x_px)
            made.lens = frame.montage.lens
            places[tile_id] = {
                "raster_index": stop.index,
                "stage_position": (stop.x_nm, stop.y_nm),
                "raster_position": (stop.column, stop.row),
            }
        made.complete = {
            "montage_id": "m",
            "tiles": places,
            "acquisition_id": acquisition_id,
            "start_time": "2026-01-02T03:04:05Z",
            "pixel_size": acquisition.pixel_nm,
            "rotation_angle": 0.0,
            "aperture_centroid": (0, 0),
        }
        return made

    return make


@contextmanager
def ticking(service: Any, bus: Bus) -> Iterator[Any]:
    """Run the ticks of a service in a thread; then end it and its bus."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def ticks() -> None:
        while not stop.wait(0.05):
            try:
                service.tick()
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=ticks)
    thread.start()
    try:
        yield service
    finally:
        stop.set()
        thread.join(60)
        bus.close()
        service.close()
    assert not failures, failures


@pytest.fixture
def live_fit() -> Callable[..., Any]:
    """Run a montage fit for a block."""

    @contextmanager
    def run(settings: Settings) -> Iterator[MontageFitService]:
        bus = Bus(settings.broker, "montage_fit")
        bus.connect(5.0)
        with ticking(MontageFitService(bus, settings), bus) as service:
            yield service

    return run


@pytest.fixture
def live_pipeline() -> Callable[..., Any]:
    """Run one process of the pipeline for a block."""

    @contextmanager
    def run(settings: Settings, home: Path) -> Iterator[None]:
        journal = Journal(home / "pipeline.sqlite", lease_s=30.0)
        bus = Bus(settings.broker, "pipeline")
        bus.connect(5.0)
        with ticking(PipelineService(bus, journal, settings), bus):
            yield

    return run


class Listener:
    """What was received on some topics, in order."""

    def __init__(self, bus: Bus, *topics: str) -> None:
        self.published: list[tuple[str, Any]] = []
        bus.subscribe_many(topics, self._take)

    def _take(self, message: Any, headers: Any) -> None:
        self.published.append((headers["topic"], message))

    def of(self, topic: str) -> list[Any]:
        """The messages of one topic."""
        return [message for name, message in self.published if name == topic]

    def wait(self, topic: str, count: int = 1, timeout_s: float = 60.0) -> list[Any]:
        """The messages of one topic when there are so many."""
        deadline = time.monotonic() + timeout_s
        while len(self.of(topic)) < count:
            assert time.monotonic() < deadline, self.published
            time.sleep(0.02)
        return self.of(topic)


@pytest.fixture
def received(open_bus: Callable[[str], Bus]) -> Iterator[Callable[..., Listener]]:
    """Listen to topics."""
    with ExitStack():
        yield lambda *topics: Listener(open_bus("listener"), *topics)


@pytest.fixture(scope="session")
def away_px() -> Callable[..., float]:
    """Largest distance of two sets of places, up to one common shift."""

    def measure(
        found: dict[str, tuple[float, float]], truth: dict[str, tuple[float, float]]
    ) -> float:
        keys = sorted(truth)
        off = np.array([found[k] for k in keys]) - np.array([truth[k] for k in keys])
        return float(np.linalg.norm(off - off.mean(axis=0), axis=1).max())

    return measure
