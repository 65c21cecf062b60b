"""Finding the microscope that runs, or what there is to start."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from em_platform.acquisition.roi import created, stops_of
from em_platform.cli import cli
from em_platform.cli.console_output import ConsoleOutput
from em_platform.cli.live import live_microscope, microscope_processes, page_published
from em_platform.cli.watch import new_regions
from em_platform.config import AcquisitionSettings, BrokerSettings, Settings
from em_platform.errors import BrokerUnavailable, ConfigError, DeviceError
from em_platform.messaging.bus import Bus
from em_platform.model import Size
from em_platform.processes.single_instance import claim_home, try_lock


@pytest.fixture
def settings(home: Path, free_port: Callable[[], int]) -> Iterator[Settings]:
    before = dict(os.environ)
    os.environ["EM_BROKER__PORT"] = str(port := free_port())
    yield Settings(home=home, broker=BrokerSettings(port=port))
    os.environ.clear()
    os.environ.update(before)


def test_beside_a_platform_all_but_broker_and_recorder_is_started(
    settings: Settings,
) -> None:
    with microscope_processes(settings) as beside:
        names = {child.name for group in beside.groups for child in group}
        assert {"scope", "pipeline-1", "coordinator", "operator"} <= names
        assert not {"broker", "recorder"} & names
        note = json.loads((settings.home / "rig.json").read_bytes())
        assert note == {"page": beside.page}
        with (
            pytest.raises(ConfigError, match="a microscope already runs in"),
            microscope_processes(settings),
        ):
            pass
    assert not (settings.home / "rig.json").exists()


def test_real_devices_may_come_later_beside_a_platform(settings: Settings) -> None:
    real = settings.model_copy(
        update={"acquisition": AcquisitionSettings(simulated=False)}
    )
    os.environ["EM_ACQUISITION__SIMULATED"] = "false"
    with microscope_processes(real) as beside:
        names = {child.name for group in beside.groups for child in group}
    assert "coordinator" in names
    assert "scope" not in names


def test_acquiring_needs_the_real_devices_now(settings: Settings) -> None:
    real = settings.model_copy(
        update={"acquisition": AcquisitionSettings(simulated=False)}
    )
    with (
        pytest.raises(DeviceError, match="no scope and no stage and no camera"),
        live_microscope(real, ConsoleOutput()),
    ):
        pass


def test_a_broker_that_is_to_be_there_is_missed_in_one_sentence(
    settings: Settings,
) -> None:
    os.environ["EM_BROKER__EMBEDDED"] = "false"
    elsewhere = settings.model_copy(
        update={"broker": settings.broker.model_copy(update={"embedded": False})}
    )
    with (
        pytest.raises(BrokerUnavailable, match="no broker listens"),
        live_microscope(elsewhere, ConsoleOutput()),
    ):
        pass


@pytest.fixture
def running_microscope(
    open_bus: Callable[[str], Bus], rig_settings: Settings
) -> Iterator[Bus]:
    """A coordinator and a camera of 256 px on the bus, as clients see them."""
    bus, stop = open_bus("coordinator"), threading.Event()
    queue = {"queue": [], "completed_count": 0, "timestamp": 1}
    camera = {
        **{"exposure": 5e3, "gain": 0, "width": 256, "height": 256, "temp": 0},
        **{"target_temp": 0, "device_name": "c", "device_model_id": "c"},
        **{"device_sn": "1", "bit_depth": 8},
    }

    def publish() -> None:
        while not stop.wait(0.1):
            bus.publish("state.current", state="Preview")
            bus.publish("roi.queue.status", **queue)
            bus.publish("camera.status", **camera)

    publishing = threading.Thread(target=publish)
    publishing.start()
    yield bus
    stop.set()
    publishing.join()


def test_options_that_make_a_microscope_are_refused_beside_one_that_runs(
    settings: Settings, rig_settings: Settings, running_microscope: Bus
) -> None:
    """round3 1.3.3: `--tile-px 256` gave one tile of the sixteen, with status 0."""
    os.environ["EM_BROKER__PORT"] = str(rig_settings.broker.port)
    words = ["acquire", "--rows", "4", "--tile-px", "256", "--seed", "3", "--exit"]
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, ConfigError)
    assert "found --tile-px and --seed and a microscope that runs already" in str(
        result.exception
    )


def test_a_montage_is_planned_in_frames_of_the_camera_that_runs(
    rig_settings: Settings, open_bus: Callable[[str], Bus], running_microscope: Bus
) -> None:
    """round3 1.3.3: the settings of another terminal gave other rows and columns."""
    (region,) = new_regions(open_bus("acquire"), rig_settings, 1, first=1)
    roi, frame = created(region), Size(height_px=256, width_px=256)
    acquisition = rig_settings.acquisition
    stops = stops_of(
        roi, frame, pixel_nm=acquisition.pixel_nm, overlap=acquisition.overlap
    )
    assert len(stops) == acquisition.rows * acquisition.columns


def test_the_page_is_noted_while_the_microscope_runs(settings: Settings) -> None:
    with page_published(settings) as page:
        assert page == f"http://127.0.0.1:{settings.acquisition.operator.port}"
        assert json.loads((settings.home / "rig.json").read_bytes())["page"] == page


def test_a_home_is_held_by_one_microscope(settings: Settings) -> None:
    claim_home(settings)
    with try_lock(settings.home / "rig.lock") as ours:
        assert ours
        with pytest.raises(ConfigError), microscope_processes(settings):
            pass
