"""Two real pipeline processes share a montage; one is killed while it has a tile."""

import os
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pigeon import Pigeon
from TEM_comms.tile import Raw

from em_platform.acquisition.frame_paths import frame_path, tile_body_path, tile_name
from em_platform.config import export
from em_platform.formats import write_tiff
from em_platform.messaging.bus import Bus
from em_platform.messaging.login import login_of
from em_platform.processes.fork_server import NewPythons
from em_platform.simulation.specimen.tissue import tissue
from em_platform.storage.atomic import write_bytes
from tests.ports import broker_at
from tests.rig import Process, start_service

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

ROWS, COLUMNS, SIDE, SHARED = 4, 4, 640, 128
EARLY = (
    "tile.statistics.min_max_mean",
    "tile.statistics.focus",
    "tile.statistics.histogram",
    "tile.preview",
    "tile.mini",
    "tile.processed",
)
LATE = ("tile.template_matches", "tile.matches")
Place = tuple[int, int]


@dataclass(kw_only=True)
class Rig:
    """Processes by name, and what a pigeon client of the real package received."""

    home: Path
    environment: dict[str, str]
    port: int
    processes: dict[str, Process] = field(default_factory=dict)
    received: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def start(
        self, service: str, *options: str, name: str, programs: NewPythons | None = None
    ) -> None:
        path = self.home / f"{name}.log"
        path.touch()
        before = path.read_text().count(f"ready {name}")
        with path.open("a") as log:
            self.processes[name] = start_service(
                service,
                *options,
                environment=self.environment,
                output=log.fileno(),
                programs=programs,
            )
        deadline = time.monotonic() + 90
        while path.read_text().count(f"ready {name}") == before:
            assert time.monotonic() < deadline, path.read_text()
            time.sleep(0.05)

    def start_pipeline(self, name: str, programs: NewPythons | None = None) -> None:
        self.start("pipeline", "--name", name, name=name, programs=programs)

    def held_by(self, name: str) -> list[tuple[str, str]]:
        """Key and state of the tiles that a process has taken."""
        pid = self.processes[name].pid
        query = "SELECT key, state FROM tiles WHERE worker LIKE ?"
        return self.ask(query, f"%|{pid}|%")

    def states(self) -> dict[str, int]:
        query = "SELECT state, COUNT(*) FROM tiles GROUP BY state"
        return {state: int(count) for state, count in self.ask(query)}

    def ask(self, query: str, *values: Any) -> list[Any]:
        path = self.home / "pipeline" / "journal.sqlite"
        connection = sqlite3.connect(path, timeout=30)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def logs(self) -> str:
        return "\n".join(p.read_text()[-3000:] for p in self.home.glob("*.log"))

    def wait(self, truth: Callable[[], bool], timeout_s: float = 100.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not truth():
            assert time.monotonic() < deadline, f"{self.states()}\n{self.logs()}"
            time.sleep(0.05)

    def counts(self) -> dict[str, Counter[str]]:
        return {
            t: Counter(m.tile_id for m in self.received[t]) for t in (*EARLY, *LATE)
        }


@contextmanager
def listening(rig: Rig) -> Iterator[None]:
    """Whoever listens uses the models of TEM_comms: others are not received."""
    client = Pigeon("listener", port=rig.port)
    client.connect(*login_of(broker_at(rig.port, rig.home)))
    for topic in (*EARLY, *LATE):
        client.subscribe(topic, lambda m, t: rig.received[t].append(m))
    yield
    client._connection.remove_listener("listener")
    client.disconnect()


@pytest.fixture
def rig(home: Path, free_port: Callable[[], int]) -> Iterator[Rig]:
    port = free_port()
    before = export(
        {"broker.port": str(port), "stitching.match.search_px": "64"},
    )
    made = Rig(
        home=home, environment={**os.environ, **before, "EM_HOME": str(home)}, port=port
    )
    with ExitStack() as stack:
        stack.callback(lambda: [p.wait(30) for p in made.processes.values()])
        stack.callback(lambda: [p.kill() for p in made.processes.values()])
        made.start("broker", name="broker")
        stack.enter_context(listening(made))
        yield made


def raster() -> list[Place]:
    return [
        (row, column if row % 2 == 0 else COLUMNS - 1 - column)
        for row in range(ROWS)
        for column in range(COLUMNS)
    ]


def true_off(place: Place) -> np.ndarray:
    """How far a tile lies from where the stage says, `(y, x)` px."""
    return np.random.default_rng([7, *place]).integers(-8, 9, 2)


def save(frames: Path, place: Place) -> Raw:
    """Save a frame and the body of its message as a session does."""
    step = SIDE - SHARED
    y, x = np.multiply(place, step) + true_off(place) + 100
    light = tissue(int(y), int(x), height=SIDE, width=SIDE, seed=3)
    noise = np.random.default_rng([8, *place]).normal(0, 5, light.shape)
    tile_id = tile_name("m-1-20260102t030405", *place)
    path = frame_path(frames, "m-1", tile_id)
    write_tiff(path, np.clip(light + noise, 0, 255).astype(np.uint8))
    raw = Raw(
        tile_id=tile_id,
        montage_id="m-1",
        row=place[0],
        column=place[1],
        overlap=SHARED,
        stage_position=(place[1] * step * 4, place[0] * step * 4),
        path=str(path),
    )
    write_bytes(tile_body_path(frames, "m-1", tile_id), raw.model_dump_json().encode())
    return raw


def check_matches(messages: list[Any]) -> None:
    """Every pair of neighbours once, and where it truly lies."""
    pairs = Counter()
    for message in {m.tile_id: m for m in messages}.values():
        here = (message.row, message.column)
        for match in message.matches:
            there = (match.row, match.column)
            pairs[frozenset((here, there))] += 1
            dy, dx = true_off(here) - true_off(there)
            assert (match.dY, match.dX) == pytest.approx((dy, dx), abs=0.1)
    assert len(pairs) == ROWS * (COLUMNS - 1) + (ROWS - 1) * COLUMNS
    assert set(pairs.values()) == {1}


def test_a_process_killed_in_the_middle_of_a_tile_costs_nothing(rig: Rig) -> None:
    rig.start_pipeline("p1")
    rig.start_pipeline("p2")
    tiles = raster()
    held: list[tuple[str, str]] = []

    def kill_it_while_it_holds_a_tile() -> None:
        rig.wait(lambda: rig.states().get("done", 0) >= 5)
        while not held:
            # Stopped first, so that it is certain what it holds when it ends.
            os.kill(rig.processes["p1"].pid, signal.SIGSTOP)
            held.extend(rig.held_by("p1"))
            if not held:
                os.kill(rig.processes["p1"].pid, signal.SIGCONT)
                time.sleep(0.003)
        rig.processes["p1"].kill()
        rig.processes["p1"].wait()

    with Bus(broker_at(rig.port, rig.home), "session") as bus:
        bus.connect()
        killing = threading.Thread(target=kill_it_while_it_holds_a_tile)
        killing.start()
        for place in tiles:
            bus.publish("tile.raw", **save(rig.home / "frames", place).model_dump())
        bus.flush()
        killing.join()
        assert len(held) == 1
        rig.start_pipeline("p1")
        rig.wait(lambda: rig.states() == {"done": len(tiles)})
    rig.wait(lambda: all(len(c) == len(tiles) for c in rig.counts().values()))
    time.sleep(0.5)
    ((lost, state),) = held
    step = EARLY if state == "taken" else LATE
    for topic, counts in rig.counts().items():
        assert set(counts) == {tile_name("m-1-20260102t030405", *p) for p in tiles}
        for tile_id, count in counts.items():
            # Of the tile that it held, what it had published is published again.
            most = 2 if tile_id == lost and topic in step else 1
            assert 1 <= count <= most, (topic, tile_id, count, held)
    check_matches(rig.received["tile.matches"])
    for name in ("p1", "p2"):
        rig.processes[name].send_signal(signal.SIGTERM)
        assert rig.processes[name].wait(30) == 0
    frames = rig.home / "frames" / "m-1"
    assert len(list(frames.glob("*.processed.tiff"))) == len(tiles)


def test_both_processes_work_and_say_each_result_once(rig: Rig) -> None:
    rig.start_pipeline("p1", NewPythons())
    rig.start_pipeline("p2")
    raws = [save(rig.home / "frames", place) for place in raster()]
    workers: set[str] = set()
    with Bus(broker_at(rig.port, rig.home), "session") as bus:
        bus.connect()
        for raw in (*raws, *raws):
            bus.publish("tile.raw", **raw.model_dump())
        bus.flush()

        def is_done() -> bool:
            query = "SELECT DISTINCT worker FROM tiles WHERE worker != ''"
            workers.update(worker for (worker,) in rig.ask(query))
            return rig.states() == {"done": len(raws)}

        rig.wait(is_done)
    time.sleep(0.5)
    for topic, counts in rig.counts().items():
        assert len(counts) == len(raws), topic
        assert set(counts.values()) == {1}, topic
    assert len(workers) == 2
    check_matches(rig.received["tile.matches"])


def test_what_was_imaged_while_no_pipeline_ran_is_done_when_one_starts(
    rig: Rig,
) -> None:
    for place in raster():
        save(rig.home / "frames", place)
    rig.start_pipeline("p1")
    rig.wait(lambda: rig.states() == {"done": ROWS * COLUMNS})
    rig.wait(lambda: len(rig.counts()["tile.matches"]) == ROWS * COLUMNS)
    check_matches(rig.received["tile.matches"])
    rig.processes["p1"].kill()
    rig.processes["p1"].wait()
    rig.start_pipeline("p1")
    time.sleep(1.0)
    assert set(rig.counts()["tile.matches"].values()) == {1}
