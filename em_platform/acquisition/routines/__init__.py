"""Calibrations of the microscope: what each does with the devices, and its machine.

A calibration is worked out in a file of its own as a generator of steps (`steps`);
`routine` makes a state machine of it upon the requests of `acquisition.machines`.
"""

import json
from pathlib import Path

from pydantic import JsonValue

from em_platform.acquisition.machines.machine import Machine
from em_platform.acquisition.routines.find_aperture import FindAperture
from em_platform.acquisition.routines.routine import Routine
from em_platform.acquisition.routines.steps import Calibration, Outcome
from em_platform.storage.atomic import write_bytes


class Darkfield(Routine):
    """Leaves `dark.tiff`, the mean of frames with the screen down."""

    kind = "darkfield"

    def calibration(self) -> Calibration:
        """See reference_frames."""
        from em_platform.acquisition.routines.exposure import darkfield

        return darkfield(self._settings)


class Brightfield(Routine):
    """Leaves `bright.tiff`, what the camera makes of even light."""

    kind = "brightfield"

    def calibration(self) -> Calibration:
        """See reference_frames."""
        from em_platform.acquisition.routines.exposure import brightfield

        return brightfield(self._settings)


class AutoFocus(Routine):
    """Leaves the column in focus."""

    kind = "autofocus"

    def calibration(self) -> Calibration:
        """See focus_search."""
        from em_platform.acquisition.routines.focus_and_resolution import autofocus

        return autofocus(self._settings)


class AutoExposure(Routine):
    """Leaves the camera at the exposure that gives the wanted mean."""

    kind = "autoexposure"

    def calibration(self) -> Calibration:
        """See exposure_search."""
        from em_platform.acquisition.routines.exposure import autoexposure

        return autoexposure(self._settings)


class BeamCenter(Routine):
    """Leaves the beam in the middle of the frame."""

    kind = "beam-center"

    def calibration(self) -> Calibration:
        """See beam_search."""
        from em_platform.acquisition.routines.beam_search import beam_center

        return beam_center(self._settings)


class BeamSpread(Routine):
    """Leaves the beam as wide as even light needs."""

    kind = "beam-spread"

    def calibration(self) -> Calibration:
        """See beam_search."""
        from em_platform.acquisition.routines.beam_search import beam_spread

        return beam_spread(self._settings)


class CalibrateResolution(Routine):
    """Publishes pixel size and rotation of this magnification and all earlier ones.

    They are kept in `resolution.json` among the references.
    """

    kind = "resolution"

    def calibration(self) -> Calibration:
        """See resolution."""
        from em_platform.acquisition.routines.focus_and_resolution import (
            calibrate_resolution,
        )

        return calibrate_resolution(self._settings)

    def found(self, outcome: Outcome) -> None:
        """Add it to what is known, and publish all of it."""
        path = self.context.references / "resolution.json"
        known = _known(path)
        for mode, found in outcome.messages["calibration.resolution"].items():
            # keys read from JSON are text: a number would stand beside its own text
            known[mode].update({str(mag): value for mag, value in found.items()})
        write_bytes(path, json.dumps(known, indent=1).encode())
        self.client.send("calibration.resolution", **known)


def _known(path: Path) -> dict[str, dict[str, JsonValue]]:
    """What was calibrated before; nothing where the file is not there or not whole."""
    try:
        known = json.loads(path.read_bytes())
        return {mode: dict(known[mode]) for mode in ("mag", "lowmag")}
    except (OSError, ValueError, KeyError, TypeError):
        # a damaged file costs the earlier calibrations, not this one
        return {"mag": {}, "lowmag": {}}


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
