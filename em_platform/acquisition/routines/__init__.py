"""Calibrations of the microscope: what each does with the devices, and its machine.

A calibration is worked out in a file of its own as a generator of steps (`steps`);
`routine` makes a state machine of it upon the requests of `acquisition.machines`.
"""

from em_platform.acquisition.machines.machine import Machine
from em_platform.acquisition.routines.calibrations import (
    AutoExposure,
    AutoFocus,
    BeamCenter,
    BeamSpread,
    Brightfield,
    CalibrateResolution,
    Darkfield,
)
from em_platform.acquisition.routines.find_aperture import FindAperture

ROUTINES: dict[str, type[Machine]] = {
    "Brightfield": Brightfield,
    "Darkfield": Darkfield,
    "AutoFocus": AutoFocus,
    "AutoExposure": AutoExposure,
    "BeamCenter": BeamCenter,
    "BeamSpread": BeamSpread,
    "FindAperture": FindAperture,
    "CalibrateResolution": CalibrateResolution,
}
"""Name of the state -> its machine, made with the settings of the acquisition."""

__all__ = ["ROUTINES"]
