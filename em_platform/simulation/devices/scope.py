"""The simulated column: magnification, focus, beam, image shift, screen."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from TEM_comms.scope import Command, Status
from TEM_comms.scope.image_shift import Calibrate as ShiftCalibrate
from TEM_comms.scope.image_shift import Command as ShiftCommand
from TEM_comms.scope.image_shift import Status as ShiftStatus

from em_platform.config import Settings
from em_platform.messaging.bus import Bus
from em_platform.simulation.devices.commanded import DeviceBus, FaultFile

log = logging.getLogger(__name__)

TICK_S = 0.1  # so exact is the period of the status
_PERIOD_S = 1.0  # of the status: the coordinator takes 3 s without one for an outage

MAGNIFICATIONS = {
    "LOWMAG": (50, 80, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1000, 1200, 1500),
    "MAG": (
        *(2000, 2500, 3000, 4000, 5000, 6000, 8000, 10_000, 12_000, 15_000),
        *(20_000, 25_000, 30_000, 40_000, 50_000, 60_000, 80_000, 100_000),
        *(120_000, 150_000, 200_000, 250_000, 300_000, 400_000, 500_000, 600_000),
        *(800_000, 1_000_000, 1_200_000),
    ),
}
"""What each mode of a JEOL 1200 offers."""

LIMITS = {
    "focus": (-100_000, 100_000),
    "brightness": (0, 65_535),
    "beam_offset": (-32_768, 32_767),
    "beam_tilt": (-32_768, 32_767),
    "spot_size": (1, 8),
}
"""Least and greatest value that the column takes; of pairs, of each."""

SHIFT_LIMIT_NM = 20_000
"""How far the image shift reaches along both axes."""


def start_status(magnification: int) -> Status:
    """The column as it is switched on; focus 0 is sharp when it is well adjusted."""
    return Status(
        focus=0,
        aperture="2",
        mag_mode="LOWMAG" if magnification < 2000 else "MAG",
        mag=magnification,
        tank_voltage=120,  # kV, of a JEOL 1200
        brightness=1300,  # as `illumination.STANDARD_BRIGHTNESS`
        beam_offset=(0, 0),
        beam_tilt=(0, 0),
        spot_size=1,
        screen="up",
    )


def start_shift() -> ShiftStatus:
    """The image shift is off, and knows one position: none."""
    return ShiftStatus(enabled=False, image_shift=(0, 0), calibration={0: (0, 0)})


def changed(status: Status, command: Any, *, allowed: int) -> Status:
    """The status after a command; fields that are None keep their value.

    `allowed` is one more magnification, that of the settings.

    Raises
    ------
    ValueError
        The mode does not have that magnification, or a value is beyond its limits.
    """
    wanted = command.model_dump(exclude_none=True)
    if (mag := wanted.get("mag")) is not None:
        choices = MAGNIFICATIONS[wanted["mag_mode"]]
        # the settings may name a magnification that only their scope has
        if mag not in choices and mag != allowed:
            raise ValueError(
                f"scope: {wanted['mag_mode']} has no magnification {mag}, only "
                f"{', '.join(map(str, choices))}; choose one of these"
            )
    for name, (low, high) in LIMITS.items():
        # What is not commanded stays as it is: its least value passes.
        value = wanted.get(name, low)
        values = value if isinstance(value, tuple) else (value,)
        if not all(low <= each <= high for each in values):
            raise ValueError(
                f"scope: {name} = {value} is beyond the limits, {low} to {high}; stay "
                "within them"
            )
    return Status(**{**status.model_dump(), **wanted})


def shifted(status: ShiftStatus, command: Any) -> ShiftStatus:
    """The image shift after a command to go to a calibrated position, or off.

    Raises
    ------
    ValueError
        The position was not calibrated.
    """
    if not command.enable:
        off = {"enabled": False, "current_position": None, "image_shift": (0, 0)}
        return ShiftStatus(**{**status.model_dump(), **off})
    if command.position not in status.calibration:
        raise ValueError(
            f"scope: the image shift has no position {command.position}, only "
            f"{', '.join(map(str, sorted(status.calibration)))}; calibrate it first"
        )
    there = {
        "enabled": True,
        "current_position": command.position,
        "image_shift": status.calibration[command.position],
    }
    return ShiftStatus(**{**status.model_dump(), **there})


def calibrated(status: ShiftStatus, command: Any) -> ShiftStatus:
    """The image shift that has learnt a position (x, y in nm at the specimen).

    Raises
    ------
    ValueError
        The shift is beyond the deflectors' reach.
    """
    if any(abs(each) > SHIFT_LIMIT_NM for each in command.image_shift):
        raise ValueError(
            f"scope: image shift {command.image_shift} nm is beyond the limit of "
            f"{SHIFT_LIMIT_NM} nm; stay within it"
        )
    calibration = {**status.calibration, command.position: command.image_shift}
    changes = {"calibration": calibration}
    # calibrated where it is: it moves at once
    if status.current_position == command.position:
        changes["image_shift"] = command.image_shift
    return ShiftStatus(**{**status.model_dump(), **changes})


class Scope:
    """Turns messages into changes and publishes its status: each second and after each.

    A command that it cannot obey is logged and changes nothing.
    """

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = DeviceBus(bus, "scope", FaultFile(settings.home))
        self._allowed = settings.acquisition.magnification
        self._status = start_status(self._allowed)
        self._shift = start_shift()
        self._published_s = 0.0
        self._acts: dict[type, Callable[[Any], None]] = {
            Command: self._on_command,
            ShiftCommand: partial(self._on_shift, shifted),
            ShiftCalibrate: partial(self._on_shift, calibrated),
        }
        # one handler, so that a calibration counts for the command after it
        self._bus.subscribe_many(
            (
                "scope.command",
                "scope.image_shift.command",
                "scope.image_shift.calibrate",
            ),
            lambda message, _: self._acts[type(message)](message),
        )

    def tick(self) -> None:
        """Publish its status when a second has gone by."""
        # Half a tick less: one that comes a little early does not skip a period.
        if time.monotonic() - self._published_s >= _PERIOD_S - TICK_S / 2:
            self._publish_status()
            self._publish_shift()

    def close(self) -> None:
        """Nothing is left to do."""

    def _on_command(self, command: Any) -> None:
        try:
            self._status = changed(self._status, command, allowed=self._allowed)
        except ValueError as error:
            log.warning("%s", error)
        self._publish_status()

    def _on_shift(
        self, changed: Callable[[ShiftStatus, Any], ShiftStatus], command: Any
    ) -> None:
        try:
            self._shift = changed(self._shift, command)
        except ValueError as error:
            log.warning("%s", error)
        self._publish_shift()

    def _publish_status(self) -> None:
        self._published_s = time.monotonic()
        self._bus.publish("scope.status", **self._status.model_dump())

    def _publish_shift(self) -> None:
        self._bus.publish("scope.image_shift.status", **self._shift.model_dump())
