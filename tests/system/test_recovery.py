"""After a Stop now a new `acquire` finishes the old montage, and images the new one."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from em_platform.acquisition.frame_paths import retry_of
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.events import VERDICT
from em_platform.acquisition.session.report import LiveReport
from em_platform.acquisition.session.rig import (
    DEVICES,
    RECORDER,
    SERVICES,
    free_ports,
)
from em_platform.config import Settings, export, load_settings
from em_platform.messaging.bus import Bus
from em_platform.model import AcquisitionUpload
from em_platform.processes import Supervisor
from em_platform.processes.fork_server import ForkedProcess
from em_platform.simulation.devices.commanded import set_faults
from em_platform.storage import layout, store_of
from tests.ports import reserve_port
from tests.rig import run_command, running_rig, start_command

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SMALL = {
    "acquisition.overlap": "0.25",
    "acquisition.simulation.tile_px": "256",
    "acquisition.simulation.exposure_ms": "100",
    "acquisition.buffer.keep_cancelled_s": "1",
    "stitching.match.search_px": "32",
}
OLD, NEW = 30, 4
WAIT_S = 180.0
IDLE_S, BUSY = 25.0, 10
"""A session ends within so many seconds on an idle computer; on a busy one so many
times later as a command that does nothing takes."""


@dataclass(slots=True, kw_only=True)
class Microscope:
    """A microscope of real processes that another process has started."""

    settings: Settings
    environment: dict[str, str]
    supervisor: Supervisor
    bus: Bus
    wait_until: Callable[..., None]
    first: ForkedProcess | None = None

    def wait(self, truth: Callable[[], bool], pause_s: float = 1.0) -> None:
        self.wait_until(truth, timeout_s=WAIT_S, pause_s=pause_s)

    def first_ends(self) -> None:
        """The command that began the old montage ends by itself: it was stopped."""
        assert self.first is not None
        assert self.first.wait(WAIT_S) == 1

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command, as from another terminal."""
        environment = {**os.environ, **self.environment}
        return run_command(*words, environment=environment, timeout_s=WAIT_S)

    def limit_s(self) -> float:
        """How long a session may take on this computer, as busy as it is now."""
        begun_s = time.monotonic()
        # A Python of its own, as of all that is typed.
        command = (sys.executable, "-m", "em_platform", "fault", "clear")
        environment = {**os.environ, **self.environment}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return IDLE_S + BUSY * (time.monotonic() - begun_s)

    def begin(self) -> str:
        """Have six by five tiles imaged; the id of the montage once some are there."""
        raster = ("--rows", "6", "--columns", "5")
        known = set(self.montages())
        environment = {**os.environ, **self.environment}
        with open(os.devnull, "wb") as output:
            self.first = start_command(
                *("acquire", "--exit", *raster),
                environment=environment,
                output=output.fileno(),
            )
        self.wait(lambda: set(self.montages()) > known)
        (name,) = set(self.montages()) - known
        # Seen at once, so that most of the montage is still ahead.
        self.wait(lambda: len(self.bodies(name)) >= 8, pause_s=0.1)
        return name

    def stop_in_the_dark(self, name: str) -> list[str]:
        """Take the light away until QC stops the scope; the tiles it found dark."""
        # At once: the command starts so slowly beside others that all may be imaged.
        set_faults(self.settings.home, {"beam_loss": 1.0})
        self.wait(lambda: self.entry(name) == "failed")
        self.wait(lambda: len(self.verdicts(name)) == len(self.bodies(name)))
        self.first_ends()
        self.run("fault", "clear")
        return [tile for tile, passed in self.verdicts(name).items() if not passed]

    def acquire(
        self, *words: str
    ) -> tuple[LiveReport, subprocess.CompletedProcess[str]]:
        path = self.settings.home / "report.json"
        path.unlink(missing_ok=True)
        done = self.run(
            *("acquire", "--rows", "2", "--columns", "2", "--exit", *words),
            *("--report", str(path)),
        )
        assert path.is_file(), done.stdout
        return LiveReport.model_validate_json(path.read_text()), done

    def montages(self) -> list[str]:
        frames = self.settings.home / "frames"
        return [p.name for p in frames.glob("m-*")] if frames.is_dir() else []

    def bodies(self, name: str) -> list[str]:
        folder = self.settings.home / "frames" / name
        return [path.stem for path in folder.glob("*_[0-9]*_[0-9]*.json")]

    def verdicts(self, name: str) -> dict[str, bool]:
        with ledger_of(self.settings) as ledger:
            found = ledger.events(topics=(VERDICT,), limit=10_000)
        return {
            event.body["tile_id"]: event.body["passed"]
            for event in found
            if event.body["montage_id"] == name
        }

    def entry(self, name: str) -> str:
        queue = self.bus.wait_for("roi.queue.status", lambda _: True, 10).queue
        found = [e.status.value for e in queue if e.montage_id == name]
        return found[0] if found else ""

    def is_whole(self, acquisition_id: str, tiles: int) -> dict[str, Any]:
        """Assert that a montage is complete for recorder and store; what was sent."""
        with ledger_of(self.settings) as recorder:
            montage = recorder.montage(acquisition_id, store=store_of(self.settings))
        assert (len(montage.tiles), montage.failures) == (tiles, ())
        assert len({(tile.row, tile.column) for tile in montage.tiles}) == tiles
        record = store_of(self.settings).read(
            layout.upload(acquisition_id), AcquisitionUpload
        )
        assert (len(record.tiles), record.failures) == (tiles, ())
        assert all(tile.passed for tile in record.tiles)
        assert all(tile.statistics for tile in record.tiles)
        return {tile.tile_id: tile for tile in record.tiles}


@pytest.fixture(scope="module")
def microscope(
    tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]
) -> Iterator[Microscope]:
    home = tmp_path_factory.mktemp("recovery")
    chosen = {**SMALL, "home": str(home)}
    for name in ("broker.port", "acquisition.operator.port"):
        chosen[name] = str(reserve_port())
    chosen |= free_ports(load_settings(environment=export(chosen)))
    environment = export(chosen)
    settings = load_settings(environment=environment)
    wanted = (*DEVICES, RECORDER, *SERVICES)
    with (
        running_rig(settings, environment=environment, wanted=wanted) as supervisor,
        Bus(settings.broker, "test") as bus,
    ):
        tending = threading.Thread(target=supervisor.run)
        tending.start()
        bus.connect()
        yield Microscope(
            settings=settings,
            environment=environment,
            supervisor=supervisor,
            bus=bus,
            wait_until=wait_until,
        )
        supervisor.stopping.set()
        tending.join()


def check_both_whole(
    microscope: Microscope, old: str, dark: list[str], report: LiveReport
) -> None:
    """The old montage and a new one are whole, and the report says so."""
    assert report.is_good, report
    first, second = report.montages
    assert (first.montage_id, first.tiles, first.passed) == (old, OLD, OLD)
    assert (second.tiles, second.passed) == (NEW, NEW)
    assert second.montage_id != old
    assert (report.tiles_imaged, report.tiles_lost) == (OLD + NEW, 0)
    sent = microscope.is_whole(first.acquisition_id, OLD)
    microscope.is_whole(second.acquisition_id, NEW)
    assert not set(dark) & set(sent)
    again = {name for name in sent if retry_of(name)}
    # Beside those, at most the frame that was exposed when the scope was stopped.
    assert {f"{name}r1" for name in dark} <= again
    assert len(again) <= len(dark) + 1
    assert max(Counter(retry_of(name) for name in sent)) == 1


def test_both_montages_end_whole_after_quality_control_stopped_the_first(
    microscope: Microscope,
) -> None:
    old = microscope.begin()
    dark = microscope.stop_in_the_dark(old)
    assert len(dark) >= 3
    limit_s = microscope.limit_s()
    begun_s = time.monotonic()
    report, done = microscope.acquire()
    assert done.returncode == 0, done.stdout
    # Imaging takes 4 s, the rest comes each 2 s: no wait is longer than its reason.
    assert time.monotonic() - begun_s < limit_s
    check_both_whole(microscope, old, dark, report)
    # Frames that were imaged again do not stay, nor count as waiting for the upload.
    folder = microscope.settings.home / "frames" / old
    microscope.wait(lambda: not any((folder / f"{n}.tiff").exists() for n in dark))
    status = microscope.bus.wait_for("buffer.status", lambda _: True, 20)
    assert status.queue_length == 0


def test_both_montages_end_whole_after_the_stopped_coordinator_was_killed(
    microscope: Microscope,
) -> None:
    old = microscope.begin()
    dark = microscope.stop_in_the_dark(old)
    before = microscope.supervisor.restarts["coordinator"]
    os.kill(microscope.supervisor.pids["coordinator"], signal.SIGKILL)
    microscope.wait(lambda: microscope.supervisor.restarts["coordinator"] > before)
    report, done = microscope.acquire()
    assert done.returncode == 0, done.stdout
    check_both_whole(microscope, old, dark, report)


def test_a_montage_that_exists_is_refused_at_once(microscope: Microscope) -> None:
    (taken, *_) = sorted(microscope.montages())
    limit_s = microscope.limit_s()
    begun_s = time.monotonic()
    done = microscope.run("acquire", "--first", str(int(taken[2:])), "--exit")
    assert done.returncode != 0
    assert f"montage {taken} exists already" in done.stdout
    assert "leave out --first" in done.stdout
    assert time.monotonic() - begun_s < limit_s


def test_what_the_operator_gave_up_is_not_imaged_and_the_new_montage_is_whole(
    microscope: Microscope,
) -> None:
    old = microscope.begin()
    operator = microscope.settings.acquisition.operator
    page = f"http://{operator.host}:{operator.port}"
    answer = requests.post(f"{page}/api/stop", json={"when": "now"}, timeout=10)
    assert answer.ok, answer.text
    microscope.wait(lambda: microscope.entry(old) == "aborted")
    microscope.first_ends()
    report, done = microscope.acquire()
    assert done.returncode == 0, done.stdout
    (only,) = report.montages
    assert only.montage_id != old
    microscope.is_whole(only.acquisition_id, NEW)


def test_a_session_that_is_stopped_again_ends_at_once_and_names_what_did_not_begin(
    microscope: Microscope,
) -> None:
    old = microscope.begin()
    microscope.stop_in_the_dark(old)
    limit_s = microscope.limit_s()
    microscope.run("fault", "beam_loss=1")
    begun_s = time.monotonic()
    report, done = microscope.acquire()
    microscope.run("fault", "clear")
    assert done.returncode == 1
    assert time.monotonic() - begun_s < limit_s
    first, second = report.montages
    assert (first.montage_id, first.state) == (old, "error")
    assert "dark and uniform" in first.reason
    assert second.state == "pending"
    finished, done = microscope.acquire("--montages", "0")
    assert done.returncode == 0, done.stdout
    assert [m.montage_id for m in finished.montages] == [old, second.montage_id]
    microscope.is_whole(finished.montages[0].acquisition_id, OLD)
