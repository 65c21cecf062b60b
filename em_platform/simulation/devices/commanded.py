"""Faults that are switched on and off while the devices run.

They stand in `<home>/faults.json`, name -> value and since when; every device looks at
the file's time before it acts, so a fault works at once and outlives a restart.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from em_platform.errors import ConfigError
from em_platform.messaging.bus import Bus
from em_platform.model import Model
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)

Handler = Callable[[Any, Mapping[str, str]], None]

COMMANDED = {
    "stage_stuck": "1: the stage stays where it is, and reports that it moves",
    "stage_slow": "it moves so many times slower",
    "stage_drift": "nm a minute that the specimen creeps along x, not reported",
    "focus_drift": "steps of the focus knob a minute that the best focus moves",
    "beam_loss": "share of the light that is lost, 0 to 1",
    "contamination": "share of the frame's width that dark blotches grow a minute",
    "camera_timeout_frames": "so many frames are neither saved nor published",
    "camera_timeout_s": "for so many seconds no frame is saved or published",
    "camera_mute": "1: the camera receives and publishes nothing",
    "stage_mute": "1: the stage receives and publishes nothing",
    "scope_mute": "1: the column receives and publishes nothing",
}
"""Fault -> what its value means; 0 is off."""


class CommandedFault(Model):
    """One fault that is on."""

    value: float
    since: float = Field(ge=0)
    """Unix time at which it was switched on."""


class Faults(Model):
    """The faults that are on."""

    on: dict[str, CommandedFault] = Field(default_factory=dict)

    def value(self, name: str) -> float:
        """Of one fault; 0 where it is off."""
        fault = self.on.get(name)
        return 0.0 if fault is None else fault.value

    def since(self, name: str) -> float:
        """Unix time since when it is on; 0 where it is off."""
        fault = self.on.get(name)
        return 0.0 if fault is None else fault.since

    def grown(self, name: str) -> float:
        """The value times the minutes that the fault has been on."""
        fault = self.on.get(name)
        if fault is None:
            return 0.0
        # Not below 0, where the clock was set back.
        return fault.value * max(time.time() - fault.since, 0.0) / 60.0


def faults_path(home: Path) -> Path:
    """Of the file of the faults that are on."""
    return home / "faults.json"


def set_faults(home: Path, values: Mapping[str, float]) -> Faults:
    """Switch faults on (0: off); those not named stay as they are.

    Raises
    ------
    ConfigError
        There is no such fault, or its value makes no sense.
    """
    for name, value in values.items():
        _check(name, value)
    on = dict(read_faults(home).on)
    for name, value in values.items():
        on.pop(name, None)
        if value:
            on[name] = CommandedFault(value=value, since=time.time())
    return _write(home, Faults(on=on))


def clear_faults(home: Path) -> Faults:
    """Switch all faults off."""
    return _write(home, Faults())


def read_faults(home: Path) -> Faults:
    """The faults that are on.

    Raises
    ------
    ConfigError
        The file is not what `set_faults` writes.
    """
    path = faults_path(home)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Faults()
    try:
        return Faults(on=json.loads(content))
    except (ValueError, ValidationError) as error:
        raise ConfigError(
            f"faults: {path} is not an object of name -> value and since; "
            "run `em-platform fault clear`"
        ) from error


class FaultFile:
    """The faults as a device sees them: read again when the file has changed."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = os.fspath(faults_path(home))  # asked for with each message
        self._seen = 0
        self._faults = Faults()

    def now(self) -> Faults:
        """The faults that are on; a file that cannot be read changes nothing."""
        try:
            # with each message, so that a fault works at once
            changed = os.stat(self._path).st_mtime_ns
        except OSError:
            changed = 0  # no file, no fault
        if changed != self._seen:
            # Before it is read: a broken file is logged once and not with each message.
            self._seen = changed
            try:
                self._faults = read_faults(self._home)
            except ConfigError as error:
                log.warning("%s", error)
        return self._faults


class DeviceBus:
    """The bus as one device has it: cut off while the device is mute."""

    def __init__(self, bus: Bus, device: str, faults: FaultFile) -> None:
        self._bus, self._mute, self._faults = bus, f"{device}_mute", faults

    def publish(self, topic: str, **fields: Any) -> None:
        """Send one message, see messaging.bus."""
        if not self._faults.now().value(self._mute):
            self._bus.publish(topic, **fields)

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Hand each message of `topic` to the handler."""
        self.subscribe_many((topic,), handler)

    def subscribe_many(self, topics: Iterable[str], handler: Handler) -> None:
        """Hand the messages of all `topics` to one handler, in their order."""

        def received(message: Any, headers: Mapping[str, str]) -> None:
            if not self._faults.now().value(self._mute):
                handler(message, headers)

        self._bus.subscribe_many(topics, received)


def _check(name: str, value: float) -> None:
    if name not in COMMANDED:
        raise ConfigError(
            f"faults: there is no fault {name}, only {', '.join(COMMANDED)}; "
            "choose one of these"
        )
    # only these two have a direction
    positive = name not in ("stage_drift", "focus_drift")
    if not math.isfinite(value) or (positive and value < 0):
        raise ConfigError(
            f"faults: {name} = {value}, expected {COMMANDED[name]}; give such a number"
        )


def _write(home: Path, faults: Faults) -> Faults:
    body = {name: fault.model_dump() for name, fault in faults.on.items()}
    write_bytes(faults_path(home), json.dumps(body, indent=1).encode())
    return faults
