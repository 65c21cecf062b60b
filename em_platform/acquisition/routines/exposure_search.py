"""AutoExposure: the exposure at which the mean grey level is right."""

import numpy as np

from em_platform.acquisition.routines.steps import (
    Calibration,
    Camera,
    Frame,
    Image,
    Outcome,
    grey,
)
from em_platform.config import AcquisitionSettings
from em_platform.errors import DeviceError

_TRIES = 8
_MOST = 20.0  # the exposure changes by so much at once at most
_LONGEST_US = 5e6


def autoexposure(settings: AcquisitionSettings) -> Calibration:
    """Scale the exposure by what the mean lacks, until it is within the tolerance.

    Raises
    ------
    DeviceError
        There is no light, or the mean does not follow the exposure.
    """
    wanted = settings.coordinator.routines
    first = exposure_us = float((yield Camera()).exposure)
    for _ in range(_TRIES):
        frame = yield Frame()
        mean = float(grey(frame).mean())
        if abs(mean - wanted.mean_grey) <= wanted.mean_tolerance:
            return Outcome(
                sentence=f"autoexposure: {exposure_us / 1000:.3g} ms, mean {mean:.0f}"
            )
        exposure_us *= factor(frame, wanted_grey=wanted.mean_grey)
        exposure_us = round(min(exposure_us, _LONGEST_US), 1)
        yield Camera(fields={"exposure": exposure_us})
    yield Camera(fields={"exposure": first})
    raise DeviceError(
        f"autoexposure: the mean is {mean:.1f} of 255 at {exposure_us / 1000:.3g} ms, "
        f"{wanted.mean_grey:g} was wanted; see that the beam is on and the screen up"
    )


def factor(frame: Image, *, wanted_grey: float) -> float:
    """By how much longer to expose so that the frame's mean becomes `wanted_grey`."""
    levels = grey(frame)
    if float(np.mean(levels >= 254.0)) > 0.2:
        return 0.3  # what is clipped does not show how bright it is
    mean = float(levels.mean())
    return float(np.clip(wanted_grey / max(mean, 0.1), 1.0 / _MOST, _MOST))
