"""Starts and stops the live microscope: devices, services, a broker if need be.

Whatever answers already, such as a real camera, is not started a second time.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from em_platform.config import BrokerSettings, Settings
from em_platform.errors import BrokerUnavailable, DeviceError
from em_platform.messaging.bus import Bus
from em_platform.processes import Child, free_port, listens

DEVICE_STATUS = {
    "scope": "scope.status",
    "stage": "stage.motion.status",
    "camera": "camera.status",
}
"""Device -> the topic on which it publishes its status at least every two seconds.

A real device is known by it; where none answers, `em-platform device NAME` runs the
simulated one, the class `Name` of `simulation/devices/name.py`.
"""

DEVICES = tuple(DEVICE_STATUS)

# Apart from SERVICES: a platform of Dagster starts one of its own.
RECORDER = "recorder"
SERVICES = (
    "temdb",
    "aloha",
    "pipeline",
    "qc",
    "montage_fit",
    "buffer",
    "operator",
    "coordinator",
)
"""What makes a microscope of three devices, a broker and a recorder."""

SAYS = {
    **DEVICE_STATUS,
    "coordinator": "state.current",
    "qc": "qc.status",
    "buffer": "buffer.status",
}
"""Who says something regularly, and on which topic."""

IMPORTS = {
    "broker": ("em_platform.messaging.broker",),
    RECORDER: ("em_platform.acquisition.recorder.service",),
    **{name: (f"em_platform.simulation.devices.{name}",) for name in DEVICES},
    "temdb": ("em_platform.temdb.app",),
    "aloha": ("em_platform.aloha.service",),
    "pipeline": ("em_platform.acquisition.pipeline.service",),
    "qc": ("em_platform.acquisition.qc.service",),
    "montage_fit": ("em_platform.acquisition.montage_fit.service",),
    "buffer": ("em_platform.acquisition.buffer.service",),
    "operator": ("em_platform.operator.service",),
    "coordinator": ("em_platform.acquisition.coordinator.service",),
}
"""What each process imports, which those after it then need not import again."""

_PROBE_S = 2.5  # the slowest say their state each two seconds
_ALSO_SAY = {"qc.status": ("montage_fit", "dagster")}
"""Topic -> services that speak up on it without being the one it is the sign of."""


def rig_children(
    settings: Settings,
    *,
    environment: Mapping[str, str] | None = None,
    wanted: Sequence[str] = (*DEVICES, RECORDER, *SERVICES),
) -> list[list[Child]]:
    """Groups of processes that can start at once; the last group is to stop first.

    Parameters
    ----------
    settings
        Of the processes: how many of the pipeline there are. Devices are left out where
        they shall be real, aloha and TEM DB where the settings name others.
    environment
        Settings that they shall have beside those of this process.
    wanted
        Names of devices and services.
    """
    environment = environment or {}
    elsewhere = {
        "aloha": settings.acquisition.buffer.url,
        "temdb": settings.temdb.url,
    }
    chosen = [name for name in wanted if not elsewhere.get(name)]
    devices = DEVICES if settings.acquisition.simulated else ()
    base = [
        _child("device", n, environment=environment) for n in devices if n in chosen
    ]
    if RECORDER in chosen:
        base.append(_child(RECORDER, environment=environment))
    middle: list[Child] = []
    last: list[Child] = []
    for name in SERVICES:
        if name not in chosen:
            continue
        made = _service(name, settings, environment)
        # stops first: it puts the screen down while the scope still answers
        (last if name == "coordinator" else middle).extend(made)
    return [group for group in (base, middle, last) if group]


def broker_children(
    settings: Settings, *, environment: Mapping[str, str] | None = None
) -> list[list[Child]]:
    """The embedded broker as a group of its own; none where one listens already.

    Raises
    ------
    BrokerUnavailable
        No broker listens, and the settings say that there is one already.
    """
    if listens(settings.broker.host, settings.broker.port):
        return []
    if not settings.broker.embedded:
        raise _nobody(settings.broker)
    return [[_child("broker", environment=environment or {})]]


def free_ports(settings: Settings) -> dict[str, str]:
    """Other ports for those HTTP services whose port is taken, as overrides."""
    wanted = {
        "aloha": (settings.aloha.host, settings.aloha.port),
        "temdb": (settings.temdb.host, settings.temdb.port),
        "acquisition.operator": (
            settings.acquisition.operator.host,
            settings.acquisition.operator.port,
        ),
    }
    found = {name: free_port(host, port) for name, (host, port) in wanted.items()}
    return {
        f"{name}.port": str(port)
        for name, port in found.items()
        if port != wanted[name][1]
    }


def answering(
    settings: Settings,
    *,
    wanted: frozenset[str] = frozenset(SAYS),
    timeout_s: float = _PROBE_S,
) -> set[str]:
    """Those of `wanted` that are received within `timeout_s`."""
    if not listens(settings.broker.host, settings.broker.port):
        return set()
    names = {topic: name for name, topic in SAYS.items() if name in wanted}
    received: set[str] = set()
    all_received = threading.Event()

    def receive(topic: str, _: Any, headers: Mapping[str, str]) -> None:
        if headers.get("service", "") in _ALSO_SAY.get(topic, ()):
            return
        received.add(names[topic])
        if received == wanted:
            all_received.set()

    with Bus(settings.broker, "probe") as bus:
        try:
            bus.connect(timeout_s=5.0)
        except BrokerUnavailable:  # what listens there may be no broker
            return set()
        for topic in names:
            bus.subscribe(topic, partial(receive, topic))
        all_received.wait(timeout_s)
    return received


def missing(settings: Settings, *, recorder: bool) -> list[str]:
    """Devices and services that do not answer, and so are to be started."""
    there = answering(settings)
    names = [*DEVICES, *SERVICES, *((RECORDER,) if recorder else ())]
    return [name for name in names if name not in there]


def refuse_without_devices(settings: Settings, absent: Sequence[str]) -> None:
    """See that real devices are there where simulated ones are not wanted.

    Raises
    ------
    DeviceError
        One is missing, and the settings say that it is not simulated.
    """
    devices = [name for name in absent if name in DEVICES]
    if devices and not settings.acquisition.simulated:
        raise DeviceError(
            f"microscope: no {' and no '.join(devices)} answers on "
            f"{settings.broker.host}:{settings.broker.port}, real ones were expected "
            "(acquisition.simulated is false); start their services, or choose "
            "--profile sim"
        )


def _service(
    name: str, settings: Settings, environment: Mapping[str, str]
) -> list[Child]:
    count = settings.acquisition.pipeline.processes
    if name != "pipeline" or count == 1:
        return [_child("service", name, environment=environment)]
    return [
        _child("service", name, environment=environment, process=f"{name}-{number}")
        for number in range(1, count + 1)
    ]


def _child(*words: str, environment: Mapping[str, str], process: str = "") -> Child:
    name = process or words[-1]
    imports = ("em_platform.cli.processes", *IMPORTS[words[-1]])
    named = ("--name", process) if process else ()
    return Child(
        name=name,
        arguments=(sys.executable, "-m", "em_platform", *words, *named),
        imports=imports,
        environment=environment,
        # with the line's end: pipeline-10 begins like pipeline-1
        ready=lambda output: f"ready {name}\n" in output,
    )


def _nobody(broker: BrokerSettings) -> BrokerUnavailable:
    address = f"{broker.host}:{broker.port}"
    return BrokerUnavailable(
        f"rig: no broker listens at {address}, one was expected there; start it, or "
        "set broker.embedded",
        address=address,
    )
