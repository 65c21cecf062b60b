"""The calibrations find what is hidden in simulated devices that are real processes.

Each runs in a minimal root machine, as the coordinator would run it.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from em_platform.acquisition.machines.loop import BusClient, Loop
from em_platform.acquisition.machines.machine import Machine, context_of
from em_platform.acquisition.machines.requests import ChangeAperture
from em_platform.acquisition.routines import ROUTINES
from em_platform.config import Settings, export, load_settings
from em_platform.imaging.exposure import camera_gain
from em_platform.messaging.bus import Bus
from em_platform.processes import Child, Supervisor
from em_platform.simulation.devices.commanded import clear_faults, set_faults
from em_platform.simulation.devices.illumination import misalignment_of
from tests.ports import reserve_port
from tests.rig import running_rig

pytestmark = pytest.mark.system

_TIMEOUT_S = 180.0


class Root(Machine):
    """Idle -> one routine after the other; `done` and `failed` say how they ended."""

    def __init__(self, loop: Loop, context: Any, settings: Settings) -> None:
        self.loop, self.context = loop, context
        self.received = threading.Condition()
        acquisition = settings.acquisition
        jobs = [
            {
                "name": name,
                "children": routine(acquisition),
                "remap": {"Success": "Done"},
            }
            for name, routine in ROUTINES.items()
        ]
        change = ChangeAperture(acquisition, lambda: {"aperture_id": 1})
        jobs.append(
            {"name": "Change", "children": change, "remap": {"Success": "Done"}}
        )
        names = [str(job["name"]) for job in jobs]
        super().__init__(
            states=["Idle", "Done", "Stopped", *jobs],
            transitions=[
                ["halt", names, "Stopped"],
                ["go_on", "Stopped", "Done"],
                *([f"do{name}", ["Idle", "Done"], name] for name in names),
                {"trigger": "cancel", "source": names, "dest": "Done"},
            ],
            initial="Idle",
            queued=True,
            ignore_invalid_triggers=True,
            after_state_change=self._publish_status,
        )

    def crashed(self, error: Exception) -> None:
        """An error in a callback is an error of the test."""
        self.context.problem = f"crashed: {error!r}"

    def _publish_status(self) -> None:
        with self.received:
            self.received.notify_all()


class Harness:
    """A running root machine, and a second client on the bus."""

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self.settings = settings
        self.bus = bus
        self.loop = Loop()
        self.client = BusClient(bus, self.loop)
        self.context = context_of(settings)
        self.context.latest = self.client.latest
        self.root = Root(self.loop, self.context, settings)
        self.root.add_client(self.client)
        self.client.listen()
        started = threading.Event()
        self.loop.put(self.root._start)
        self.loop.put(started.set)
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()
        assert started.wait(10)

    def start(self, name: str) -> None:
        """Start a routine."""
        self.loop.put(lambda: getattr(self.root, f"do{name}")())
        self.wait(lambda state: state.startswith(name))

    def wait(self, accept: Callable[[str], bool]) -> str:
        """Wait for a state."""
        with self.root.received:
            ok = self.root.received.wait_for(
                lambda: accept(self.root.state), timeout=_TIMEOUT_S
            )
        assert ok, f"{self.root.state}: {self.context.problem}"
        return str(self.root.state)

    def run(self, name: str) -> None:
        """Run a routine to its success."""
        self.loop.put(lambda: getattr(self.root, f"do{name}")())
        with self.root.received:
            self.root.received.wait_for(
                lambda: self.root.state.startswith(name), timeout=10
            )
        state = self.wait(lambda s: s == "Done" or s.endswith("Failure"))
        assert state == "Done", self.context.problem

    def scope(self) -> Any:
        """The column's newest status."""
        mark = self.bus.mark("scope.status")
        return self.bus.wait_for("scope.status", lambda _: True, 5.0, since=mark)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A misaligned microscope of three processes and a broker."""
    home = tmp_path_factory.mktemp("routines")
    wanted = export(
        {
            "broker.port": str(reserve_port()),
            "acquisition.request_timeout_s": "10",
            "acquisition.request_tries": "2",
            "acquisition.simulation.tile_px": "256",
            "acquisition.simulation.exposure_ms": "4",
            "acquisition.simulation.misalignment": "1",
            "acquisition.simulation.seed": "2",
            "acquisition.simulation.rotation_deg": "37",
            "acquisition.simulation.stage_speed_um_s": "100000",
            "acquisition.simulation.stage_settle_ms": "2",
        }
    )
    found = load_settings(environment={**wanted, "EM_HOME": str(home)})
    with running_rig(found, environment=wanted) as supervisor:
        tending = threading.Thread(target=supervisor.run)
        tending.start()
        yield found
        supervisor.stopping.set()
        tending.join()


@pytest.fixture
def harness(settings: Settings) -> Iterator[Harness]:
    """A root machine with all routines; aperture 1 is under the beam."""
    clear_faults(settings.home)
    with Bus(settings.broker, "routines") as bus:
        bus.connect(20)
        for topic in ("scope.status", "camera.status", "tile.raw"):
            bus.latest(topic)
        running = Harness(settings, bus)
        running.run("Change")
        yield running
        running.client.closing.set()
        running.loop.stop()
        running.thread.join(10)


def truth(settings: Settings) -> Any:
    return misalignment_of(settings.acquisition.simulation)


def test_autoexposure_brings_the_mean_into_range(
    harness: Harness, settings: Settings
) -> None:
    harness.run("AutoExposure")
    wanted = settings.acquisition.coordinator.routines
    frames = (settings.home / "frames" / "preview").glob("autoexposure-*.tiff")
    newest = max(frames, key=lambda path: path.stat().st_mtime_ns)
    mean = tifffile.imread(newest).mean()
    assert abs(mean - wanted.mean_grey) <= wanted.mean_tolerance


def test_autofocus_finds_the_hidden_focus(harness: Harness, settings: Settings) -> None:
    harness.run("AutoFocus")
    assert abs(harness.scope().focus - truth(settings).focus) <= 10


def test_beam_center_finds_the_hidden_offset(
    harness: Harness, settings: Settings
) -> None:
    before = harness.scope()
    harness.run("BeamCenter")
    after = harness.scope()
    off = np.subtract(after.beam_offset, truth(settings).beam_offset)
    assert np.hypot(*off) <= 10  # of 500 for a frame's width
    assert after.brightness == before.brightness


def test_beam_spread_finds_the_hidden_spread(
    harness: Harness, settings: Settings
) -> None:
    harness.run("BeamCenter")
    harness.run("BeamSpread")
    assert abs(harness.scope().brightness - (1300 - truth(settings).spread)) <= 15


def test_find_aperture_finds_its_middle_and_returns(
    harness: Harness, settings: Settings
) -> None:
    received: list[Any] = []
    harness.bus.subscribe("calibration.centroid", lambda m, _: received.append(m))
    harness.run("FindAperture")
    scope = harness.scope()
    assert (scope.mag_mode, scope.mag) == ("MAG", 2000)
    deadline = time.monotonic() + 10
    while not received and time.monotonic() < deadline:
        time.sleep(0.02)
    found = received[0]
    assert found.aperture_id == 1
    x, y = truth(settings).aperture_nm
    assert max(abs(found.x - x), abs(found.y - y)) <= 1500
    assert found.semi_major_nm == pytest.approx(1_000_000, abs=3000)
    assert found.semi_minor_nm == pytest.approx(750_000, abs=3000)


def test_calibrate_resolution_finds_pixel_and_rotation(
    harness: Harness, settings: Settings
) -> None:
    received: list[Any] = []
    harness.bus.subscribe("calibration.resolution", lambda m, _: received.append(m))
    harness.run("AutoFocus")
    harness.run("CalibrateResolution")
    deadline = time.monotonic() + 10
    while not received and time.monotonic() < deadline:
        time.sleep(0.02)
    found = received[0].mag[2000]
    pixel_nm = settings.acquisition.pixel_nm * truth(settings).pixel
    assert found.nm_per_px == pytest.approx((pixel_nm, pixel_nm), rel=0.003)
    assert np.degrees(found.rotation) == pytest.approx(37, abs=0.1)


def test_dark_and_bright_references_are_written(
    harness: Harness, settings: Settings
) -> None:
    folder = harness.context.references
    harness.run("Darkfield")
    dark = tifffile.imread(folder / "dark.tiff")
    assert dark.shape == (256, 256)
    assert dark.dtype == np.float32
    assert dark.mean() < 3
    assert harness.scope().screen == "up"
    raw = harness.bus.wait_for("tile.raw", lambda b: bool(b.darkfield), 10.0)
    assert raw.tile_id.startswith("darkfield-")
    focus = harness.scope().focus
    harness.run("Brightfield")
    bright = tifffile.imread(folder / "bright.tiff").astype(float)
    simulation = settings.acquisition.simulation
    gain = camera_gain(
        256,
        256,
        seed=simulation.seed,
        vignette=simulation.vignette,
        pattern=simulation.pattern,
        dust=simulation.dust,
    )
    left = (bright / bright.mean() / gain).std()
    assert left < 0.75 * gain.std()
    assert harness.scope().focus == focus


def test_a_routine_without_frames_fails_puts_back_and_resumes(
    harness: Harness, settings: Settings
) -> None:
    before = harness.scope()
    short = 2  # tries of a request, see the settings above
    set_faults(settings.home, {"camera_timeout_frames": short})
    harness.context.problem = ""
    harness.start("BeamSpread")
    state = harness.wait(lambda s: s == "Done" or s.endswith("Failure"))
    assert state == "BeamSpread_Failure"
    assert "camera.command" in harness.context.problem
    after = harness.scope()
    assert (after.brightness, after.screen) == (before.brightness, "up")
    clear_faults(settings.home)
    harness.loop.put(lambda: harness.root.resume())
    harness.wait(lambda s: not s.endswith("Failure"))
    assert harness.wait(lambda s: s == "Done" or s.endswith("Failure")) == "Done"


def test_a_routine_that_is_left_puts_the_column_back_but_not_the_screen(
    harness: Harness,
) -> None:
    before = harness.scope()
    harness.start("AutoFocus")
    harness.wait(lambda s: s.startswith("AutoFocus_Capture"))
    harness.loop.put(lambda: harness.root.cancel())
    harness.wait(lambda s: s == "Done")
    harness.bus.wait_for("scope.status", lambda s: s.focus == before.focus, 10.0)
    harness.start("Darkfield")
    harness.wait(lambda s: s.startswith("Darkfield_Capture"))
    harness.loop.put(lambda: harness.root.cancel())
    harness.wait(lambda s: s == "Done")
    assert harness.scope().screen == "down"
    harness.bus.publish("scope.command", screen="up")


def test_a_stop_is_followed_by_no_command_and_the_next_run_puts_back(
    harness: Harness,
) -> None:
    before = harness.scope()
    harness.start("BeamCenter")
    harness.bus.wait_for(
        "scope.status", lambda s: s.brightness != before.brightness, 30.0
    )
    harness.loop.put(lambda: harness.root.halt())
    harness.wait(lambda s: s == "Stopped")
    commands: list[Any] = []
    harness.bus.subscribe("scope.command", lambda m, _: commands.append(m))
    time.sleep(1.0)
    assert commands == []
    assert harness.scope().brightness != before.brightness
    harness.loop.put(lambda: harness.root.go_on())
    harness.wait(lambda s: s == "Done")
    harness.run("BeamCenter")
    assert harness.scope().brightness == before.brightness


SETUP = {
    "auto_exposure": "AutoExposure",
    "auto_focus": "AutoFocus",
    "beam_center": "BeamCenter",
    "beam_spread": "BeamSpread",
    "calibrate_resolution": "CalibrateResolution",
    "find_aperture": "FindAperture",
    "bright_field": "Brightfield",
    "dark_field": "Darkfield",
}
"""What the operator asks for in `ui.setup` -> the state of the coordinator."""


def test_the_coordinator_does_all_that_the_operator_asks_for(
    settings: Settings, tmp_path: Path
) -> None:
    clear_faults(settings.home)
    environment = {
        **export(
            {
                "broker.port": str(settings.broker.port),
                "acquisition.request_timeout_s": "10",
                "acquisition.coordinator.preview_s": "0.5",
            }
        ),
        "EM_HOME": str(settings.home),
    }
    coordinator = Child(
        name="coordinator",
        arguments=(sys.executable, "-m", "em_platform", "service", "coordinator"),
        environment=environment,
        ready=lambda output: "ready coordinator" in output,
    )
    visited: list[str] = []
    with (
        Bus(settings.broker, "operator") as bus,
        Supervisor(tmp_path / "logs") as supervisor,
    ):
        bus.connect(20)
        bus.subscribe("state.change", lambda change, _: visited.append(change.new))
        bus.latest("scope.status")
        supervisor.start(coordinator, timeout_s=90)
        bus.publish("ui.setup", **dict.fromkeys(SETUP, True))
        deadline = time.monotonic() + _TIMEOUT_S

        def done() -> bool:
            seen = {state.split("_")[1] for state in visited if "_" in state}
            last = visited[-1] if visited else ""
            return set(SETUP.values()) <= seen and "UpdateImage" in last

        while not done() and time.monotonic() < deadline:
            assert not any("Failure" in state for state in visited), visited[-5:]
            time.sleep(0.1)
        assert done(), visited[-10:]
        scope: Any = bus.latest("scope.status")
    hidden_truth = truth(settings)
    assert abs(scope.focus - hidden_truth.focus) <= 10
    off = np.subtract(scope.beam_offset, hidden_truth.beam_offset)
    assert np.hypot(*off) <= 10
    assert abs(scope.brightness - (1300 - hidden_truth.spread)) <= 15
    folder = settings.home / "frames" / "references"
    names = {path.name for path in folder.iterdir()}
    assert {"bright.tiff", "dark.tiff", "resolution.json"} <= names
