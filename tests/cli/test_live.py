"""Finding the microscope that runs, or what there is to start."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from em_platform.cli.console_output import ConsoleOutput
from em_platform.cli.live import live_microscope, microscope_processes, page_published
from em_platform.config import AcquisitionSettings, BrokerSettings, Settings
from em_platform.errors import BrokerUnavailable, ConfigError, DeviceError
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
