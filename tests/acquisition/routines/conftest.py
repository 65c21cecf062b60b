"""A misaligned microscope without bus and clock, that does the steps at once."""

from collections.abc import Callable
from typing import Any

import pytest
from TEM_comms.camera import Command
from TEM_comms.camera import Settings as Change
from TEM_comms.scope import Command as ScopeCommand
from TEM_comms.stage.motion import Status as StageStatus

from em_platform.acquisition.routines.steps import (
    Calibration,
    Camera,
    Column,
    Move,
    Outcome,
    Step,
)
from em_platform.config import (
    AcquisitionSettings,
    CoordinatorSettings,
    RoutineSettings,
    SimulationSettings,
)
from em_platform.simulation.devices.commanded import Faults
from em_platform.simulation.devices.illumination import Misalignment, misalignment_of
from em_platform.simulation.devices.scope import changed, start_status
from em_platform.simulation.devices.sensor import Sensor


class Microscope:
    """The simulated devices' own functions, called one after the other."""

    def __init__(
        self, settings: AcquisitionSettings, faults: Faults | None = None
    ) -> None:
        self.settings = settings
        on = faults or Faults()
        self.sensor = Sensor(settings, lambda: on)
        self.sensor.stage = StageStatus(x=0, y=0, in_motion=False, calibrated=True)
        self.sensor.scope = start_status(settings.magnification)
        self.sensor.section = 1
        self.frames = 0

    @property
    def scope(self) -> Any:
        """The column's state."""
        return self.sensor.scope

    @property
    def stage(self) -> tuple[int, int]:
        """Where the stage stands, x and y in nm."""
        stage: Any = self.sensor.stage
        return stage.x, stage.y

    @property
    def misalignment(self) -> Misalignment:
        """What is out of adjustment."""
        return misalignment_of(self.settings.simulation)

    def run(self, calibration: Callable[[AcquisitionSettings], Calibration]) -> Outcome:
        """Do all steps of a calibration."""
        steps = calibration(self.settings)
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                found: Outcome = end.value
                return found
            answer = self.do(step)

    def do(self, step: Step) -> Any:
        """Do one step; what it gives."""
        if isinstance(step, Column):
            mag = self.settings.magnification
            self.sensor.scope = changed(
                self.scope, ScopeCommand(**step.fields), allowed=mag
            )
            return self.sensor.scope
        if isinstance(step, Camera):
            self.sensor.change(Change(**step.fields))
            status = self.sensor.status()
            return type("Status", (), status)
        if isinstance(step, Move):
            x, y = self.stage
            self.sensor.stage = StageStatus(
                x=x if step.x_nm is None else step.x_nm,
                y=y if step.y_nm is None else step.y_nm,
                in_motion=False,
                calibrated=True,
            )
            return self.sensor.stage
        self.frames += 1
        command = Command(
            tile_id=f"c-{self.frames}",
            montage_id="",
            row=0,
            column=0,
            overlap=0,
            **step.flags,
        )
        return self.sensor.frame(command).image


MakeMicroscope = Callable[..., Microscope]


@pytest.fixture
def microscope() -> MakeMicroscope:
    """Make one: seed, misalignment, other settings of the simulation and routines."""

    def make(
        *,
        routines: dict[str, Any] | None = None,
        faults: Faults | None = None,
        **simulation: Any,
    ) -> Microscope:
        defaults = {"tile_px": 256, "misalignment": 1.0}
        settings = AcquisitionSettings(
            simulation=SimulationSettings(**{**defaults, **simulation}),
            coordinator=CoordinatorSettings(
                routines=RoutineSettings(**(routines or {}))
            ),
        )
        return Microscope(settings, faults)

    return make
