"""The simulated column: magnification, focus, beam, screen."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from TEM_comms.scope import Status

from em_platform.config import Settings
from em_platform.messaging.bus import Bus

log = logging.getLogger(__name__)

TICK_S = 0.1
_PERIOD_S = 1.0

MAGNIFICATIONS = {
    "LOWMAG": (50, 80, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1000, 1200, 1500),
    "MAG": (
        *(2000, 2500, 3000, 4000, 5000, 6000, 8000, 10_000, 12_000, 15_000),
        *(20_000, 25_000, 30_000, 40_000, 50_000, 60_000, 80_000, 100_000),
    ),
}
"""What each mode of a JEOL 1200 offers, in the range that tissue is imaged at."""


def start_status(magnification: int) -> Status:
    """The column as it is switched on; focus 0 is sharp."""
    return Status(
        focus=0,
        aperture="2",
        mag_mode="LOWMAG" if magnification < 2000 else "MAG",
        mag=magnification,
        tank_voltage=120,
        brightness=1300,
        beam_offset=(0, 0),
        beam_tilt=(0, 0),
        spot_size=1,
        screen="up",
    )


def changed(status: Status, command: Any, *, allowed: int) -> Status:
    """The status after a command; fields that are None keep their value.

    `allowed` is one more magnification, that of the settings.

    Raises
    ------
    ValueError
        The mode does not have that magnification.
    """
    wanted = command.model_dump(exclude_none=True)
    if (mag := wanted.get("mag")) is not None:
        choices = MAGNIFICATIONS[wanted["mag_mode"]]
        if mag not in choices and mag != allowed:
            raise ValueError(
                f"scope: {wanted['mag_mode']} has no magnification {mag}, only "
                f"{', '.join(map(str, choices))}; choose one of these"
            )
    return Status(**{**status.model_dump(), **wanted})


class Scope:
    """Turns messages into changes and says its state: each second and after each."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._allowed = settings.acquisition.magnification
        self._status = start_status(self._allowed)
        self._told_s = 0.0
        bus.subscribe("scope.command", self._on_command)

    def tick(self) -> None:
        """Say its state when a second has gone by."""
        if time.monotonic() - self._told_s >= _PERIOD_S - TICK_S / 2:
            self._tell()

    def close(self) -> None:
        """Nothing is left to do."""

    def _on_command(self, command: Any, _: Mapping[str, str]) -> None:
        try:
            self._status = changed(self._status, command, allowed=self._allowed)
        except ValueError as error:
            log.warning("%s", error)
        self._tell()

    def _tell(self) -> None:
        self._told_s = time.monotonic()
        self._bus.publish("scope.status", **self._status.model_dump())
