"""Faults that are switched while the devices run do what they say, and end."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from TEM_comms.camera import Command
from TEM_comms.stage.motion import Status

from em_platform.cli.fault import command as fault_command
from em_platform.config import AcquisitionSettings, Settings, SimulationSettings
from em_platform.errors import ConfigError, NoAnswer
from em_platform.messaging.bus import Bus
from em_platform.simulation.devices.camera import Camera
from em_platform.simulation.devices.commanded import (
    COMMANDED,
    CommandedFault,
    FaultFile,
    Faults,
    clear_faults,
    faults_path,
    read_faults,
    set_faults,
)
from em_platform.simulation.devices.scope import Scope, start_status
from em_platform.simulation.devices.sensor import Sensor
from em_platform.simulation.devices.stage import Stage

Serve = Callable[..., Any]
OpenBus = Callable[[str], Bus]


def ago(minutes: float, **faults: float) -> Faults:
    """Faults that were switched on so many minutes ago."""
    since = time.time() - 60 * minutes
    return Faults(
        on={name: CommandedFault(value=v, since=since) for name, v in faults.items()}
    )


def frame(faults: Faults, **simulation: Any) -> Any:
    defaults = {"tile_px": 256, "electrons": 0, "jitter_px": 0.0, "drift": 0.0}
    settings = SimulationSettings(**{**defaults, **simulation})
    sensor = Sensor(AcquisitionSettings(simulation=settings), lambda: faults)
    sensor.stage = Status(x=0, y=0, in_motion=False, calibrated=True)
    sensor.scope = start_status(2000)
    return sensor.frame(
        Command(tile_id="m_000_000", montage_id="m", row=0, column=0, overlap=8)
    )


def test_faults_are_set_one_by_one_and_cleared_together(tmp_path: Path) -> None:
    set_faults(tmp_path, {"stage_stuck": 1})
    since = read_faults(tmp_path).since("stage_stuck")
    set_faults(tmp_path, {"beam_loss": 0.5})
    found = read_faults(tmp_path)
    assert (found.value("stage_stuck"), found.value("beam_loss")) == (1.0, 0.5)
    assert found.since("stage_stuck") == since
    assert not set_faults(tmp_path, {"stage_stuck": 0}).value("stage_stuck")
    assert clear_faults(tmp_path) == Faults()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stage_stock": 1}, "there is no fault stage_stock, only stage_stuck"),
        ({"beam_loss": -1}, "beam_loss = -1, expected share of the light"),
        ({"stage_drift": float("nan")}, "stage_drift = nan, expected nm a minute"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(
    tmp_path: Path, change: dict[str, float], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        set_faults(tmp_path, change)
    assert not faults_path(tmp_path).exists()


def test_a_device_reads_the_file_again_and_survives_a_broken_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = FaultFile(tmp_path)
    assert not file.now().on
    set_faults(tmp_path, {"stage_slow": 4})
    assert file.now().value("stage_slow") == 4
    faults_path(tmp_path).write_text("{broken")
    assert file.now().value("stage_slow") == 4
    assert "em-platform fault clear" in caplog.text
    faults_path(tmp_path).unlink()
    set_faults(tmp_path, {"stage_slow": 2})
    assert file.now().value("stage_slow") == 2


def test_the_command_line_sets_shows_and_clears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_HOME", str(tmp_path))

    def run(*words: str) -> str:
        result = CliRunner().invoke(fault_command, words)
        assert result.exit_code == 0, result.output
        return result.output.strip()

    assert run() == "no faults"
    assert run("stage_stuck=1", "camera_timeout_frames=3") == (
        "stage_stuck = 1\ncamera_timeout_frames = 3"
    )
    assert run() == "stage_stuck = 1\ncamera_timeout_frames = 3"
    assert run("stage_stuck=0") == "camera_timeout_frames = 3"
    assert run("clear") == "no faults"
    assert json.loads(faults_path(tmp_path).read_bytes()) == {}
    bad = CliRunner().invoke(fault_command, ["stage_stuck=yes"])
    assert isinstance(bad.exception, ConfigError)
    output = CliRunner().invoke(fault_command, ["--help"]).output
    assert [name for name in COMMANDED if name not in output] == []


def test_lost_light_makes_the_frame_darker() -> None:
    whole, half = frame(Faults()).image, frame(ago(0, beam_loss=0.5)).image
    assert half.mean() == pytest.approx(0.5 * whole.mean(), rel=0.02)
    assert frame(ago(0, beam_loss=1.0)).image.max() == 0


def test_focus_drifts_with_the_minutes() -> None:
    sharp = frame(Faults()).image.std()
    assert frame(ago(0.02, focus_drift=100)).image.std() > 0.97 * sharp
    assert frame(ago(4, focus_drift=100)).image.std() < 0.8 * sharp


def test_the_stage_creeps_though_it_says_that_it_rests() -> None:
    made = frame(ago(2, stage_drift=400))
    off_px = made.tile.placement.x_px - made.tile.nominal_x_px
    assert off_px == pytest.approx(200, abs=1)
    assert made.tile.placement.y_px == made.tile.nominal_y_px


def test_contamination_grows_in_its_place() -> None:
    clean = frame(Faults()).image.astype(float)
    early = frame(ago(1, contamination=0.05)).image.astype(float)
    late = frame(ago(3, contamination=0.05)).image.astype(float)
    dark_early, dark_late = (
        each < 0.5 * np.maximum(clean, 20) for each in (early, late)
    )
    assert 0.005 < dark_early.mean() < dark_late.mean() < 0.7
    assert dark_late[dark_early].mean() > 0.95


def moved_to(x: int) -> Callable[[Any], bool]:
    return lambda s: s.x == x and not s.in_motion


def test_a_stuck_stage_says_that_it_moves_and_goes_on_when_free(
    serve: Serve, open_bus: OpenBus, rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("stage.motion.status")
    serve(Stage, rig_settings)
    set_faults(rig_settings.home, {"stage_stuck": 1})
    client.publish("stage.motion.command", x=5000, y=0)
    client.wait_for("stage.motion.status", lambda s: s.in_motion, 10.0)
    with pytest.raises(NoAnswer):
        client.wait_for("stage.motion.status", moved_to(5000), 1.0)
    status: Any = client.latest("stage.motion.status")
    assert (status.x, status.in_motion) == (0, True)
    client.publish("stage.motion.command", x=0, y=0)  # a halt is obeyed all the same
    client.wait_for("stage.motion.status", moved_to(0), 10.0)
    client.publish("stage.motion.command", x=6000, y=0)
    client.wait_for("stage.motion.status", lambda s: s.in_motion, 10.0)
    clear_faults(rig_settings.home)
    client.wait_for("stage.motion.status", moved_to(6000), 10.0)


def test_a_slow_stage_takes_as_much_longer(
    serve: Serve, open_bus: OpenBus, rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("stage.motion.status")
    serve(Stage, rig_settings)
    set_faults(rig_settings.home, {"stage_slow": 20})
    begun = time.monotonic()
    client.publish("stage.motion.command", x=25_000, y=0)
    client.wait_for("stage.motion.status", moved_to(25_000), 20.0)
    assert time.monotonic() - begun >= 20 * 25 / 500  # um over um/s


@pytest.mark.parametrize(
    ("device", "kind", "topic"),
    [
        ("scope", Scope, "scope.status"),
        ("stage", Stage, "stage.motion.status"),
        ("camera", Camera, "camera.status"),
    ],
)
def test_a_mute_device_says_nothing_until_it_is_well(
    serve: Serve,
    open_bus: OpenBus,
    rig_settings: Settings,
    device: str,
    kind: Any,
    topic: str,
) -> None:
    client = open_bus("client")
    client.latest(topic)
    serve(kind, rig_settings)
    client.wait_for(topic, lambda _: True, 20.0)
    set_faults(rig_settings.home, {f"{device}_mute": 1})
    time.sleep(0.3)
    with pytest.raises(NoAnswer):
        client.wait_for(topic, lambda _: True, 2.5, since=client.mark())
    clear_faults(rig_settings.home)
    client.wait_for(topic, lambda _: True, 20.0, since=client.mark())


def test_the_camera_loses_as_many_frames_as_the_fault_asks(
    serve: Serve, open_bus: OpenBus, rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("camera.image")
    serve(Camera, rig_settings)
    client.publish("stage.motion.status", x=0, y=0, in_motion=False, calibrated=True)
    set_faults(rig_settings.home, {"camera_timeout_frames": 2})
    for name in ("a", "b", "c"):
        client.publish(
            "camera.command", tile_id=name, montage_id="", row=0, column=0, overlap=0
        )
    image = client.wait_for("camera.image", lambda _: True, 30.0)
    assert image.tile_id == "c"
    saved = [path.stem for path in (rig_settings.home / "frames").rglob("*.tiff")]
    assert saved == ["c"]
    # the same again counts anew
    set_faults(rig_settings.home, {"camera_timeout_frames": 1})
    for name in ("d", "e"):
        client.publish(
            "camera.command", tile_id=name, montage_id="", row=0, column=0, overlap=0
        )
    mark = client.mark()
    image = client.wait_for(
        "camera.image", lambda i: i.tile_id in "de", 30.0, since=mark - 1
    )
    assert image.tile_id == "e"


def test_the_camera_times_out_for_a_while(
    serve: Serve, open_bus: OpenBus, rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("camera.image")
    serve(Camera, rig_settings)
    client.publish("stage.motion.status", x=0, y=0, in_motion=False, calibrated=True)
    set_faults(rig_settings.home, {"camera_timeout_s": 1.5})
    begun = time.monotonic()
    while True:
        client.publish(
            "camera.command", tile_id="t", montage_id="", row=0, column=0, overlap=0
        )
        try:
            client.wait_for("camera.image", lambda _: True, 0.3)
        except NoAnswer:
            assert time.monotonic() - begun < 60
            continue
        break
    assert time.monotonic() - begun >= 1.3
    path = rig_settings.home / "frames" / "preview" / "t.tiff"
    assert tifffile.imread(path).shape == (64, 64)
