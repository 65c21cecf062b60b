"""The rig starts what is not there, and says what it cannot start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.devices.camera import Camera
from em_platform.acquisition.devices.scope import Scope
from em_platform.acquisition.devices.stage import Stage
from em_platform.acquisition.rig import microscope_answers, running_rig
from em_platform.config import BrokerSettings, Settings
from em_platform.errors import BrokerUnavailable


def test_without_a_broker_no_microscope_answers(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    settings = Settings(home=tmp_path, broker=BrokerSettings(port=free_port()))
    assert not microscope_answers(settings)


def test_a_broker_alone_is_no_microscope(rig_settings: Settings) -> None:
    assert not microscope_answers(rig_settings)


def test_three_devices_are_a_microscope(
    serve: Callable[..., Any], rig_settings: Settings
) -> None:
    for kind in (Scope, Stage, Camera):
        serve(kind, rig_settings)
    assert microscope_answers(rig_settings)


def test_a_broker_that_should_be_there_is_named_in_one_sentence(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    broker = BrokerSettings(embedded=False, port=port)
    settings = Settings(home=tmp_path, broker=broker)
    with (
        pytest.raises(
            BrokerUnavailable, match=f"no broker listens at 127.0.0.1:{port}"
        ),
        running_rig(settings),
    ):
        pass
