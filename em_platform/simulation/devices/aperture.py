"""The simulated tape: brings one aperture, and with it one section, under the beam."""

import math
import threading
import time
from collections.abc import Mapping
from typing import Any

from em_platform.config import SimulationSettings
from em_platform.simulation.devices.commanded import DeviceBus

CHANGING_PERIOD_S = 0.05
"""20 Hz while it changes; once a second else."""

_IDLE_PERIOD_S = 1.0


class ApertureChanger:
    """Turns messages into changes of the aperture, which take their time."""

    def __init__(self, bus: DeviceBus, settings: SimulationSettings) -> None:
        self._bus, self._settings = bus, settings
        self._lock = threading.Lock()
        self._current: int | None = None
        self._target: int | None = None
        self._ends_s = -math.inf
        self._error = ""
        self._published_s = -math.inf
        bus.subscribe("stage.aperture.command", self._on_command)

    def tick(self) -> None:
        """End a change that is due; publish which aperture it holds."""
        with self._lock:
            changing = self._ends_s > -math.inf
            if changing and time.monotonic() >= self._ends_s:
                self._current, self._ends_s = self._target, -math.inf
                self._published_s = -math.inf
        period_s = CHANGING_PERIOD_S if changing else _IDLE_PERIOD_S
        if time.monotonic() - self._published_s >= period_s - 0.005:
            self._publish_status()

    def _on_command(self, command: Any, _: Mapping[str, str]) -> None:
        wanted, count = command.aperture_id, self._settings.apertures
        with self._lock:
            self._error = ""
            if wanted is not None and not 0 <= wanted < count:
                self._error = (
                    f"stage: there is no aperture {wanted}, only 0 to {count - 1}; "
                    "choose one of these"
                )
            elif wanted is not None or command.calibrate:
                self._change(self._current if wanted is None else wanted)
        self._publish_status()

    def _change(self, wanted: int | None) -> None:
        under_way = self._ends_s > -math.inf
        if wanted == (self._target if under_way else self._current):
            return
        self._target = wanted
        if self._settings.aperture_change_s == 0:
            self._current = wanted
            return
        self._current = None
        self._ends_s = time.monotonic() + self._settings.aperture_change_s

    def _publish_status(self) -> None:
        with self._lock:
            self._published_s = time.monotonic()
            self._bus.publish(
                "stage.aperture.status",
                current_aperture=self._current,
                calibrated=True,
                error=self._error,
            )
