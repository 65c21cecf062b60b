"""Starts and stops the simulated microscope: three devices, and a broker if need be."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from em_platform.acquisition.devices import DEVICES
from em_platform.acquisition.instrument import Instrument
from em_platform.config import BrokerSettings, Settings
from em_platform.errors import BrokerUnavailable
from em_platform.messaging.bus import Bus
from em_platform.processes import Child, Supervisor, listens

_START_S = 90.0  # the first time numba compiles the tissue
_PROBE_S = 2.5  # devices say their state each second


def device_children(environment: Mapping[str, str] | None = None) -> tuple[Child, ...]:
    """The three devices, to be kept running by a supervisor."""
    return tuple(
        _child("device", name, environment=environment or {}) for name in DEVICES
    )


@contextmanager
def running_rig(
    settings: Settings, *, environment: Mapping[str, str] | None = None
) -> Iterator[Supervisor]:
    """A simulated microscope that runs while the block lasts; nothing is left behind.

    Parameters
    ----------
    settings
        Where the broker is. With `broker.embedded` one is started when none listens.
    environment
        Settings that the processes shall have beside those of this process, as
        environment variables (see config.export).

    Raises
    ------
    ToolFailed
        A process did not start; with the end of its log.
    BrokerUnavailable
        No broker listens, and the settings say that there is one already.
    """
    environment = {"EM_HOME": str(settings.home.absolute()), **(environment or {})}
    with Supervisor(Path(settings.home).absolute() / "logs") as supervisor:
        if not listens(settings.broker.host, settings.broker.port):
            if not settings.broker.embedded:
                raise _nobody(settings.broker)
            supervisor.start(_child("broker", environment=environment))
        supervisor.start(*device_children(environment), timeout_s=_START_S)
        yield supervisor


def microscope_answers(settings: Settings) -> bool:
    """Whether a scope, a stage and a camera say their state on the bus."""
    if not listens(settings.broker.host, settings.broker.port):
        return False
    with Bus(settings.broker, "probe") as bus:
        try:
            bus.connect(timeout_s=5.0)
        except BrokerUnavailable:
            return False
        return Instrument(bus, settings.acquisition).answers(_PROBE_S)


def _child(*words: str, environment: Mapping[str, str]) -> Child:
    name = words[-1]
    return Child(
        name=name,
        arguments=(sys.executable, "-m", "em_platform", *words),
        environment=environment,
        ready=lambda said: f"ready {name}" in said,
    )


def _nobody(broker: BrokerSettings) -> BrokerUnavailable:
    address = f"{broker.host}:{broker.port}"
    return BrokerUnavailable(
        f"rig: no broker listens at {address}, one was expected there; start it, or "
        "set broker.embedded",
        address=address,
    )
