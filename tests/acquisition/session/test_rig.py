"""The rig starts what is not there, and says what it cannot start."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.session.rig import (
    DEVICES,
    answering,
    free_ports,
    missing,
    refuse_without_devices,
    rig_children,
)
from em_platform.config import (
    AcquisitionSettings,
    AlohaSettings,
    BrokerSettings,
    BufferSettings,
    OperatorSettings,
    PipelineSettings,
    Settings,
    TemdbSettings,
)
from em_platform.errors import BrokerUnavailable, DeviceError
from em_platform.messaging.bus import Bus
from em_platform.processes import Child
from em_platform.simulation.devices.camera import Camera
from em_platform.simulation.devices.scope import Scope
from em_platform.simulation.devices.stage import Stage
from tests.messages import repeated
from tests.ports import reserve_port
from tests.rig import running_rig


def test_without_a_broker_no_microscope_answers(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    settings = Settings(home=tmp_path, broker=BrokerSettings(port=free_port()))
    assert answering(settings) == set()


def test_a_broker_alone_is_no_microscope(rig_settings: Settings) -> None:
    assert answering(rig_settings, timeout_s=0.5) == set()


def test_three_devices_are_a_microscope(
    serve: Callable[..., Any], rig_settings: Settings
) -> None:
    for kind in (Scope, Stage, Camera):
        serve(kind, rig_settings)
    devices = frozenset(DEVICES)
    assert answering(rig_settings, wanted=devices, timeout_s=30.0) == devices


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


def names(groups: list[list[Child]]) -> list[list[str]]:
    return [[child.name for child in group] for group in groups]


def test_the_whole_microscope_stops_from_the_coordinator_to_the_devices() -> None:
    first, middle, last = names(rig_children(Settings()))
    assert first == ["scope", "stage", "camera", "recorder"]
    assert middle == [
        *("temdb", "aloha", "pipeline-1", "pipeline-2"),
        *("qc", "montage_fit", "buffer", "operator"),
    ]
    assert last == ["coordinator"]


def test_real_devices_and_services_elsewhere_are_not_started() -> None:
    settings = Settings(
        acquisition=AcquisitionSettings(
            simulated=False,
            pipeline=PipelineSettings(processes=1),
            buffer=BufferSettings(url="http://aloha:80"),
        ),
        temdb=TemdbSettings(url="http://temdb:80"),
    )
    first, middle, _ = names(rig_children(settings))
    assert first == ["recorder"]
    assert middle == ["pipeline", "qc", "montage_fit", "buffer", "operator"]


def test_what_answers_is_not_missing(
    serve: Callable[..., Any], rig_settings: Settings, open_bus: Callable[[str], Bus]
) -> None:
    serve(Camera, rig_settings)
    assert "camera" not in missing(rig_settings, recorder=False)
    real = open_bus("their_qc")
    doubt = open_bus("montage_fit")
    with publishing(real, "buffer.status", queue_length=0, free_space=1, upload_rate=0):
        with publishing(doubt, "qc.status", status="STOP_AT_END", reason="seams"):
            found = missing(rig_settings, recorder=True)
        assert "qc" in found
        assert not {"camera", "buffer"} & set(found)
        with publishing(real, "qc.status", status="GOOD"):
            found = missing(rig_settings, recorder=False)
    assert found == [
        *("scope", "stage", "temdb", "aloha", "pipeline"),
        *("montage_fit", "operator", "coordinator"),
    ]


@contextmanager
def publishing(bus: Bus, topic: str, **fields: Any) -> Iterator[None]:
    with repeated(lambda: bus.publish(topic, **fields), 0.1):
        yield


def test_real_devices_that_are_missing_are_named_in_one_sentence() -> None:
    settings = Settings(acquisition=AcquisitionSettings(simulated=False))
    refuse_without_devices(settings, ["qc", "coordinator"])
    with pytest.raises(DeviceError, match="no stage and no camera answers on 127"):
        refuse_without_devices(settings, ["stage", "camera", "qc"])
    refuse_without_devices(Settings(), ["stage"])


def test_a_port_that_is_taken_is_replaced_and_only_that() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(aloha=AlohaSettings(port=port))
        found = free_ports(settings)
    assert found.get("aloha.port", str(port)) != str(port)
    free = Settings(
        aloha=AlohaSettings(port=reserve_port()),
        temdb=TemdbSettings(port=reserve_port()),
        acquisition=AcquisitionSettings(operator=OperatorSettings(port=reserve_port())),
    )
    assert free_ports(free) == {}
