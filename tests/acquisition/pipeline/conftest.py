"""Montages of the simulated camera, on disk as a session leaves them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from TEM_comms.camera import Command
from TEM_comms.stage.motion import Status as StageStatus

from em_platform.acquisition.frame_paths import (
    frame_path,
    tile_body_path,
    tile_name,
)
from em_platform.acquisition.pipeline.journal import Journal
from em_platform.acquisition.pipeline.service import PipelineService
from em_platform.acquisition.roi import created, roi_of, shared_px, stops_of
from em_platform.config import (
    AcquisitionSettings,
    MatchSettings,
    Settings,
    SimulationSettings,
)
from em_platform.formats import write_tiff
from em_platform.messaging.bus import Bus
from em_platform.messaging.topics import fitting
from em_platform.model import Size
from em_platform.model.truth import TileTruth
from em_platform.simulation.devices.sensor import Sensor
from em_platform.storage.atomic import write_bytes


@dataclass(frozen=True, kw_only=True)
class Imaged:
    """What a session leaves of one tile, and what is true of it."""

    body: dict[str, Any]
    truth: TileTruth

    @property
    def place(self) -> tuple[int, int]:
        return self.truth.row, self.truth.column


def image_montage(
    frames: Path,
    *,
    rows: int = 2,
    columns: int = 3,
    overlap: float = 0.25,
    acquisition_id: str = "m-1-20260102t030405",
    montage_id: str = "m-1",
    **simulation: Any,
) -> list[Imaged]:
    """Every tile of a raster in the order in which a session images it."""
    given: dict[str, Any] = {"tile_px": 256, "jitter_px": 6.0, "vignette": 0.0}
    settings = AcquisitionSettings(
        rows=rows,
        columns=columns,
        overlap=overlap,
        simulation=SimulationSettings(
            **{**given, "pattern": 0.0, "dust": 0, "drift": 0.0, **simulation}
        ),
    )
    sensor = Sensor(settings)
    sensor.section = 1
    side = settings.simulation.tile_px
    size = Size(height_px=side, width_px=side)
    imaged = []
    whole = Settings(acquisition=settings)
    roi = created(roi_of(montage_id, 1, rows, columns, overlap, whole))
    for stop in stops_of(roi, size, pixel_nm=settings.pixel_nm, overlap=overlap):
        sensor.stage = StageStatus(
            x=stop.x_nm, y=stop.y_nm, z=0, in_motion=False, calibrated=True
        )
        fields = {
            "tile_id": tile_name(acquisition_id, stop.row, stop.column),
            "montage_id": montage_id,
            "row": stop.row,
            "column": stop.column,
            "overlap": shared_px(roi, size, overlap=overlap),
            "stage_position": (stop.x_nm, stop.y_nm),
        }
        frame = sensor.frame(Command(**fields))
        path = frame_path(frames, montage_id, fields["tile_id"])
        write_tiff(path, frame.image)
        raw = fitting("tile.raw", {**fields, "path": str(path)})
        body = tile_body_path(frames, montage_id, fields["tile_id"])
        write_bytes(body, raw.model_dump_json().encode())
        imaged.append(Imaged(body=raw.model_dump(mode="json"), truth=frame.tile))
    return imaged


@pytest.fixture(name="image_montage", scope="session")
def image_montage_fixture() -> Callable[..., list[Imaged]]:
    """`image_montage`, for tests that cannot import it from here."""
    return image_montage


@pytest.fixture
def settings(rig_settings: Settings) -> Settings:
    """Of a broker of its own; matches are sought near by, the tiles are small."""
    stitching = rig_settings.stitching.model_copy(
        update={"match": MatchSettings(search_px=32)}
    )
    return rig_settings.model_copy(update={"stitching": stitching})


@pytest.fixture
def frames(settings: Settings) -> Path:
    return settings.home / "frames"


@pytest.fixture
def start(
    open_bus: Callable[[str], Bus], settings: Settings
) -> Iterator[Callable[..., Journal]]:
    """Run one process's service; its ticks come from a thread."""
    with ExitStack() as stack:

        def begin(worker: str = "worker", **changes: Any) -> Journal:
            acquisition = settings.acquisition
            pipeline = acquisition.pipeline.model_copy(update=changes)
            changed = settings.model_copy(
                update={
                    "acquisition": acquisition.model_copy(update={"pipeline": pipeline})
                }
            )
            path = settings.home / "pipeline" / "journal.sqlite"
            journal = Journal(path, worker=worker)
            service = PipelineService(open_bus(worker), journal, changed)
            stack.callback(service.close)
            stop = threading.Event()
            ticking = threading.Thread(target=lambda: tick_until(stop, service))
            ticking.start()
            stack.callback(ticking.join)
            stack.callback(stop.set)
            return Journal(path, worker="looks on")

        yield begin


def tick_until(stop: threading.Event, service: PipelineService) -> None:
    while not stop.wait(0.05):
        service.tick()
