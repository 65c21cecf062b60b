"""The montage fit is killed amid a montage: it comes back, and the map is whole."""

import base64
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from TEM_comms.camera import Command
from TEM_comms.stage.motion import Status as StageStatus

from em_platform.acquisition.frame_paths import frame_path, tile_name
from em_platform.acquisition.roi import created, roi_of, shared_px, stops_of
from em_platform.config import (
    AcquisitionSettings,
    BrokerSettings,
    Settings,
    SimulationSettings,
)
from em_platform.formats import write_tiff
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus
from em_platform.model import Size
from em_platform.processes.fork_server import NewPythons
from em_platform.simulation.devices.sensor import Sensor
from tests.rig import Process, running_service

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

TILE_PX, PIXEL_NM, OVERLAP = 256, 4.0, 0.25


def service(
    name: str, home: Path, port: int, programs: NewPythons | None = None
) -> AbstractContextManager[Process]:
    """The process, when it serves; killed after the block."""
    environment = {
        **os.environ,
        "EM_HOME": str(home),
        "EM_BROKER__PORT": str(port),
        "EM_ACQUISITION__MONTAGE_FIT__PERIOD_S": "0.2",
        "EM_ACQUISITION__MONTAGE_FIT__WAIT_S": "5",
        "EM_STITCHING__MATCH__SEARCH_PX": "32",
    }
    log = home / f"{name}.log"
    return running_service(name, environment=environment, log=log, programs=programs)


def image(home: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Frames of 3 x 3 tiles on disk; the bodies of `tile.raw` and of the end."""
    settings = AcquisitionSettings(
        rows=3,
        columns=3,
        overlap=OVERLAP,
        simulation=SimulationSettings(tile_px=TILE_PX, jitter_px=4.0),
    )
    sensor = Sensor(settings)
    roi = created(roi_of("m", 0, 3, 3, OVERLAP, Settings(acquisition=settings)))
    size = Size(height_px=TILE_PX, width_px=TILE_PX)
    raws, places = [], {}
    for stop in stops_of(roi, size, pixel_nm=PIXEL_NM, overlap=OVERLAP):
        x, y = stop.x_nm, stop.y_nm
        sensor.stage = StageStatus(x=x, y=y, in_motion=False, calibrated=True)
        fields = {
            "tile_id": tile_name("m-1", stop.row, stop.column),
            "montage_id": "m",
            "row": stop.row,
            "column": stop.column,
            "overlap": shared_px(roi, size, overlap=OVERLAP),
            "stage_position": (x, y),
        }
        path = frame_path(home / "frames", "m", fields["tile_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tiff(path, sensor.frame(Command(**fields)).image)
        raws.append({**fields, "path": str(path)})
        places[fields["tile_id"]] = {
            "raster_index": stop.index,
            "stage_position": (x, y),
            "raster_position": (stop.column, stop.row),
        }
    return raws, {
        "montage_id": "m",
        "tiles": places,
        "acquisition_id": "m-1",
        "start_time": "2026-01-02T03:04:05Z",
        "pixel_size": PIXEL_NM,
        "rotation_angle": 0.0,
        "aperture_centroid": (0, 0),
    }


def covered(minimaps: Any) -> float:
    """Share of the focus map's cells that have a tile."""
    content = np.frombuffer(base64.b64decode(minimaps.focus.image), np.uint8)
    cells = cv2.imdecode(content, cv2.IMREAD_COLOR)[::24, ::24]
    return float((cells != 233).any(axis=2).sum() / 9)


def test_a_killed_montage_fit_goes_on_with_the_montage(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    raws, complete = image(tmp_path)
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(BrokerSettings(port=0)))
        bus = stack.enter_context(Bus(BrokerSettings(port=broker.port), "coordinator"))
        bus.connect()
        maps: list[Any] = []
        stops: list[Any] = []
        matched: set[str] = set()
        bus.subscribe("montage.minimaps", lambda message, _: maps.append(message))
        bus.subscribe("qc.status", lambda message, _: stops.append(message))
        bus.subscribe("tile.matches", lambda message, _: matched.add(message.tile_id))
        stack.enter_context(service("recorder", tmp_path, broker.port))
        stack.enter_context(service("pipeline", tmp_path, broker.port))
        with service("montage_fit", tmp_path, broker.port, NewPythons()) as fit:
            for raw in raws[:4]:
                bus.publish("tile.raw", **raw)
            wait_until(lambda: len(matched) == 4 and bool(maps), timeout_s=90)
            fit.kill()
            fit.wait(30)
        for raw in raws[4:7]:  # the ledger has them
            bus.publish("tile.raw", **raw)
        wait_until(lambda: len(matched) == 7, timeout_s=90)
        maps.clear()
        with service("montage_fit", tmp_path, broker.port):
            for raw in raws[7:]:
                bus.publish("tile.raw", **raw)
            bus.publish("montage.complete", **complete)
            wait_until(lambda: bool(maps) and covered(maps[-1]) == 1.0, timeout_s=90)
    assert stops == []
