"""The coordinator as a process of its own drives devices that are processes."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tifffile

from em_platform.acquisition.roi import roi_of
from em_platform.config import Settings, export, load_settings
from em_platform.messaging.bus import Bus
from em_platform.processes import Supervisor
from tests.ports import reserve_port
from tests.rig import running_rig

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

TOPICS = (
    "tile.raw",
    "montage.complete",
    "montage.status",
    "roi.queue.status",
    "stage.motion.command",
    "stage.motion.status",
    "scope.status",
    "state.current",
)
PATIENCE_S = 120.0


class Desk:
    """An operator who hears everything, with the time when it came."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self.settings = settings
        self.bus = bus
        self.received: list[tuple[float, str, Any]] = []
        bus.subscribe_many(
            TOPICS,
            lambda m, h: self.received.append((time.monotonic(), h["topic"], m)),
        )

    def image(self, montage_id: str, rows: int, columns: int) -> None:
        made = roi_of(montage_id, 1, rows, columns, None, self.settings)
        self.bus.publish("roi.create", **made)
        self.bus.publish("ui.run", start=True)

    def of(self, topic: str, montage_id: str = "") -> list[Any]:
        return [
            m
            for _, name, m in list(self.received)
            if name == topic and montage_id in ("", getattr(m, "montage_id", ""))
        ]

    def wait(self, topic: str, accept: Callable[[Any], bool], since: int = 0) -> float:
        """When it was published."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for when, name, message in self.received[since:]:
                if name == topic and accept(message):
                    return when
            time.sleep(0.01)
        raise AssertionError(f"no such {topic}: {self.of(topic)[-2:]}")

    def wait_tile(self, montage_id: str, number: int) -> None:
        self.wait(
            "montage.status",
            lambda m: m.montage_id == montage_id and m.current_tile >= number,
        )

    def wait_montage(self, montage_id: str, state: str, since: int = 0) -> float:
        return self.wait(
            "montage.status",
            lambda m: m.montage_id == montage_id and m.state.value == state,
            since,
        )

    def check(self, montage_id: str, tiles: int) -> None:
        """One acquisition, each of its tiles once on disk, none lost on the bus."""
        done = self.of("montage.complete", montage_id)
        assert len({m.acquisition_id for m in done}) == 1
        assert len(done[0].tiles) == tiles
        folder = self.settings.home / "frames" / montage_id
        bodies = {path.stem for path in folder.glob("*_*_*.json")}
        frames = {path.stem for path in folder.glob("*_*_*.tiff")}
        published = {m.tile_id for m in self.of("tile.raw", montage_id)}
        assert bodies == frames == published == set(done[0].tiles)
        written = json.loads(
            (folder / f"{done[0].acquisition_id}.complete.json").read_bytes()
        )
        assert written == done[0].model_dump(mode="json")
        tifffile.imread(folder / f"{min(frames)}.tiff")


@pytest.fixture(scope="module")
def rig(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Settings, Supervisor]]:
    home = tmp_path_factory.mktemp("coordinator")
    environment = export(
        {
            "broker.port": str(reserve_port()),
            "acquisition.request_timeout_s": "3",
            "acquisition.request_tries": "30",  # a device may take long to start again
            "acquisition.simulation.tile_px": "256",
            "acquisition.coordinator.preview_s": "0",
        }
    )
    settings = load_settings(environment={**environment, "EM_HOME": str(home)})
    wanted = ("scope", "stage", "camera", "coordinator")
    with running_rig(settings, environment=environment, wanted=wanted) as supervisor:
        tending = threading.Thread(target=supervisor.run)
        tending.start()
        yield settings, supervisor
        supervisor.stopping.set()
        tending.join()


@pytest.fixture
def desk(rig: tuple[Settings, Supervisor]) -> Iterator[Desk]:
    settings, _ = rig
    with Bus(settings.broker, "operator") as bus:
        bus.connect(30)
        desk = Desk(bus, settings)
        desk.wait("state.current", lambda m: m.state.startswith("Preview"))
        yield desk


@pytest.mark.parametrize("victim", ["coordinator", "broker", "camera", "stage"])
def test_a_process_that_is_killed_costs_time_and_no_tile(
    desk: Desk, rig: tuple[Settings, Supervisor], victim: str
) -> None:
    montage_id = f"k-{victim}"
    desk.image(montage_id, 4, 5)
    desk.wait_tile(montage_id, 5)
    os.kill(rig[1].pids[victim], signal.SIGKILL)
    desk.wait_montage(montage_id, "completed")
    desk.check(montage_id, 20)
    assert rig[1].restarts[victim] == 1


def test_a_coordinator_that_is_killed_again_and_again_loses_nothing(
    desk: Desk, rig: tuple[Settings, Supervisor], many_kills: bool
) -> None:
    rows = 7 if many_kills else 4
    desk.image("k-often", rows, 7)
    for tiles in range(3, 48, 4) if many_kills else (3, 15):
        desk.wait_tile("k-often", tiles)
        os.kill(rig[1].pids["coordinator"], signal.SIGKILL)
    desk.wait_montage("k-often", "completed")
    desk.check("k-often", rows * 7)


def test_stop_now_reaches_the_stage_and_the_column(
    desk: Desk, record_property: Callable[[str, object], None]
) -> None:
    desk.image("s-1", 12, 12)
    desk.wait_tile("s-1", 3)
    since = len(desk.received)
    said_s = time.monotonic()
    desk.bus.publish("qc.status", status="STOP_NOW", reason="the beam drifts")
    halted_s = desk.wait("scope.status", lambda m: m.screen == "down", since)
    desk.wait_montage("s-1", "error", since)
    record_property("stop_now_ms", round((halted_s - said_s) * 1000))
    desk.wait("stage.motion.status", lambda m: not m.in_motion, len(desk.received))
    tiles = len(desk.of("tile.raw", "s-1"))
    desk.wait("state.current", lambda m: "Stopped" in m.state, len(desk.received))
    assert len(desk.of("tile.raw", "s-1")) == tiles < 144
    desk.bus.publish("ui.run", cancel=True)
    desk.wait_montage("s-1", "cancelled", since)


def test_a_coordinator_that_is_ended_rests_and_shuts_the_beam_off(
    desk: Desk, rig: tuple[Settings, Supervisor]
) -> None:
    desk.image("e-1", 5, 5)
    desk.wait_tile("e-1", 3)
    since = len(desk.received)
    os.kill(rig[1].pids["coordinator"], signal.SIGTERM)
    desk.wait("scope.status", lambda m: m.screen == "down", since)
    desk.wait_montage("e-1", "paused", since)
    desk.wait("state.current", lambda m: m.state.endswith("_Paused"), since)
    desk.bus.publish("ui.run", resume=True)
    desk.wait_montage("e-1", "completed", since)
    desk.check("e-1", 25)
