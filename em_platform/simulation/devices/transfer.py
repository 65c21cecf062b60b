"""The simulated sample transfer: between microscope, loadlock and exchange station."""

import math
import time
from collections.abc import Mapping
from typing import Any

from em_platform.config import SimulationSettings
from em_platform.simulation.devices.commanded import DeviceBus

MICROSCOPE = "microscope"
STATIONS = (MICROSCOPE, "loadlock", "exchange")
"""In the order in which the sample passes them."""

_STEPS = 4  # of one stretch: open the valve, reach, carry, close the valve
_PERIOD_S = 1.0


class Transfer:
    """Turns messages into transfers, step by step."""

    def __init__(self, bus: DeviceBus, settings: SimulationSettings) -> None:
        self._bus, self._step_s = bus, settings.transfer_step_s
        self._station = MICROSCOPE
        self._target: str | None = None
        self._begun_s = 0.0
        self._published_step = 0
        self._error = ""
        self._published_s = -math.inf
        bus.subscribe("stage.transfer.command", self._on_command)

    @property
    def station(self) -> str:
        """Where the sample is; `in_transit` on its way."""
        return self._station if self._target is None else "in_transit"

    def tick(self) -> None:
        """Publish where the sample is: at each step, and once a second."""
        step = self._step()
        if self._target is not None and step > self._total():
            self._station, self._target = self._target, None
        due = time.monotonic() - self._published_s >= _PERIOD_S - 0.005
        if due or self._step() != self._published_step:
            self._publish_status()

    def _on_command(self, command: Any, _: Mapping[str, str]) -> None:
        wanted = command.station
        self._error = ""
        if wanted is not None and wanted not in STATIONS:
            self._error = (
                f"stage: there is no station {wanted}, only {', '.join(STATIONS)}; "
                "choose one of these"
            )
        elif wanted is not None and self._target not in (None, wanted):
            self._error = (
                f"stage: the sample is on its way to {self._target}; wait until it is "
                "there"
            )
        elif wanted is not None and self._target is None and wanted != self._station:
            self._target, self._begun_s = wanted, time.monotonic()
        self._publish_status()

    def _total(self) -> int:
        if self._target is None:
            return 0
        here, there = STATIONS.index(self._station), STATIONS.index(self._target)
        return _STEPS * abs(there - here)

    def _step(self) -> int:
        """The step under way, from 1; 0 while nothing is carried."""
        if self._target is None:
            return 0
        past_s = time.monotonic() - self._begun_s
        if self._step_s == 0:
            return self._total() + 1
        return int(past_s / self._step_s) + 1

    def _publish_status(self) -> None:
        self._published_s = time.monotonic()
        self._published_step = self._step()
        total = self._total()
        self._bus.publish(
            "stage.transfer.status",
            current_station=self.station,
            target_station=self._target,
            in_transit=self._target is not None,
            step=min(self._published_step, total),
            total_steps=total,
            error=self._error,
        )
