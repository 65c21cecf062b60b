"""Kill broker and recorder while a session speaks: nothing is lost or doubled."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from TEM_comms.montage import Complete
from TEM_comms.tile import Raw

from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.config import BrokerSettings
from em_platform.messaging.bus import Bus
from em_platform.storage.atomic import write_bytes
from tests.ports import broker_at
from tests.rig import Process, start_service

MONTAGES, TILES = 4, 40


class Service:
    """One of our processes, which can be killed and started again."""

    def __init__(self, name: str, environment: dict[str, str], log: Path) -> None:
        self._name = name
        self._environment = environment
        self._log = log
        self._process: Process | None = None

    def start(self) -> None:
        options = ("--reconcile-s", "2") if self._name == "recorder" else ()
        self._log.touch()
        before = self._log.read_bytes().count(b"ready")
        with self._log.open("ab") as log:
            self._process = start_service(
                self._name,
                *options,
                environment=self._environment,
                output=log.fileno(),
            )
        deadline = time.monotonic() + 40
        while self._log.read_bytes().count(b"ready " + self._name.encode()) == before:
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=20)


def save_and_say(bus: Bus, frames: Path, number: int) -> None:
    """Image one montage as the session does: to disk first, then to the bus."""
    montage_id, acquisition_id = f"m{number}", f"acq{number}"
    places: dict[str, Any] = {}
    for index in range(TILES):
        tile_id = f"{acquisition_id}_000_{index:03d}"
        place = {"stage_position": (index * 4000, 0), "raster_position": (index, 0)}
        places[tile_id] = {"raster_index": index, **place}
        raw = Raw(
            tile_id=tile_id,
            montage_id=montage_id,
            row=0,
            column=index,
            overlap=8,
            stage_position=place["stage_position"],
            path=f"/nowhere/{tile_id}.tiff",
        )
        write_bytes(
            frames / montage_id / f"{tile_id}.json", raw.model_dump_json().encode()
        )
        bus.publish("tile.raw", **raw.model_dump())
        time.sleep(0.02)
    complete = Complete(
        montage_id=montage_id,
        tiles=places,
        acquisition_id=acquisition_id,
        start_time="2026-01-02T03:04:05Z",
        pixel_size=4.0,
        rotation_angle=0.0,
        aperture_centroid=(0, 0),
    )
    write_bytes(
        frames / montage_id / f"{acquisition_id}.complete.json",
        complete.model_dump_json().encode(),
    )
    bus.publish("montage.complete", **complete.model_dump())


@contextmanager
def running(
    home: Path, port: int
) -> Iterator[tuple[dict[str, Service], BrokerSettings]]:
    environment = {**os.environ, "EM_HOME": str(home), "EM_BROKER__PORT": str(port)}
    processes = {
        name: Service(name, environment, home / f"{name}.log")
        for name in ("broker", "recorder")
    }
    try:
        for process in processes.values():
            process.start()
        yield processes, broker_at(port, home)
    finally:
        for process in processes.values():
            process.kill()


@pytest.mark.system
@pytest.mark.timeout(120)
def test_nothing_is_lost_or_doubled_when_broker_and_recorder_are_killed(
    home: Path, free_port: Callable[[], int]
) -> None:
    chance = random.Random(7)
    frames = home / "frames"
    with (
        running(home, free_port()) as (processes, settings),
        Bus(settings, "session", send_timeout_s=60) as bus,
    ):
        bus.connect()

        def image_all() -> None:
            for number in range(MONTAGES):
                save_and_say(bus, frames, number)

        session = threading.Thread(target=image_all)
        session.start()
        for victim in ("recorder", "broker", "recorder"):
            time.sleep(chance.uniform(0.3, 1.2))
            processes[victim].kill()
            processes[victim].start()
        session.join()
        url = f"sqlite:///{home / 'recorder.sqlite'}"
        with Ledger(url) as recorder:
            wait_for_montages(recorder)
            events = recorder.events(topics=["tile.raw", "montage.complete"])
        assert processes["recorder"].terminate() == 0
        assert processes["broker"].terminate() == 0
    tiles = Counter(e.body["tile_id"] for e in events if e.topic == "tile.raw")
    assert len(tiles) == MONTAGES * TILES
    assert set(tiles.values()) == {1}
    ends = [e for e in events if e.topic == "montage.complete"]
    assert sorted(e.body["acquisition_id"] for e in ends) == [
        f"acq{number}" for number in range(MONTAGES)
    ]
    for end in ends:
        before = {e.body.get("tile_id") for e in events if e.seq < end.seq}
        assert set(end.body["tiles"]) <= before


def wait_for_montages(recorder: Ledger) -> None:
    deadline = time.monotonic() + 30
    while len(recorder.montages()) < MONTAGES:
        assert time.monotonic() < deadline, json.dumps(recorder.montages())
        time.sleep(0.1)
