"""AutoFocus: where the focus knob gives the sharpest image."""

from collections.abc import Sequence

import cv2
import numpy as np

from em_platform.acquisition.routines.steps import (
    Calibration,
    Column,
    Frame,
    Image,
    Outcome,
    eight_bit,
    grey,
)
from em_platform.config import AcquisitionSettings
from em_platform.errors import DeviceError
from em_platform.imaging.focus import focus_score

_WINDOWS = 3  # so often the search goes on where the best place was at its end
_LEAST_SCORE = 0.02  # a sharp image scores 0.1 to 0.5
_LEAST_RISE = 1.2  # of the sharpest over the middling: noise alone is alike everywhere
_FINE = (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)
"""Places of the fine search, in coarse steps about the best."""


def autofocus(settings: AcquisitionSettings) -> Calibration:
    """Coarse steps over the range, then the top of a parabola through fine ones.

    Raises
    ------
    DeviceError
        Nowhere is there a sharp image.
    """
    wanted = settings.coordinator.routines
    start = (yield Column()).focus
    powers: dict[int, float] = {}
    middle = start
    for _ in range(_WINDOWS):
        reach = range(-wanted.focus_range, wanted.focus_range + 1, wanted.focus_step)
        for place in (middle + step for step in reach):
            if place not in powers:
                yield Column(fields={"focus": place})
                powers[place] = fine_power((yield Frame()))
        best = max(powers, key=powers.__getitem__)
        if min(powers) < best < max(powers):
            break
        middle = best
    ground = float(np.median(list(powers.values())))
    for place in (best + round(share * wanted.focus_step) for share in _FINE):
        yield Column(fields={"focus": place})
        powers[place] = fine_power((yield Frame()))
    found = sharpest(
        [place for place in powers if abs(place - best) <= wanted.focus_step],
        [
            power - ground
            for place, power in powers.items()
            if abs(place - best) <= wanted.focus_step
        ],
    )
    yield Column(fields={"focus": found})
    score = focus_score(eight_bit((yield Frame())))
    if max(powers.values()) < _LEAST_RISE * ground or score < _LEAST_SCORE:
        yield Column(fields={"focus": start})
        raise DeviceError(
            f"autofocus: no sharp image from focus {min(powers)} to {max(powers)} "
            f"(score {score:.3f} at {found}); bring specimen under the beam, or focus "
            "by hand"
        )
    return Outcome(sentence=f"autofocus: {found}, score {score:.3f}, was {start}")


def fine_power(frame: Image) -> float:
    """Variance of what is 4 to 10 px wide: greatest where the image is sharp.

    `imaging.focus.focus_score` is a share of the power, so that images of different
    places can be compared. Far out of focus both parts of it vanish in the noise and
    the share is chance; of one place the power itself is the better guide.
    """
    levels = grey(frame)
    fine, coarse = (cv2.GaussianBlur(levels, (0, 0), px) for px in (1.2, 2.4))
    return float(np.subtract(fine, coarse).var())


def sharpest(places: Sequence[int], scores: Sequence[float]) -> int:
    """The top of the parabola through the logarithms of the powers.

    Defocus blurs like a Gaussian, whose logarithm is a parabola. Powers below a quarter
    of the best are noise and tails, and do not count.
    """
    at, score = np.array(places, float), np.array(scores, float)
    near = score > 0.25 * score.max()
    if near.sum() < 3:
        return places[int(np.argmax(score))]
    middle = at[near].mean()
    bend, slope, _ = np.polyfit(at[near] - middle, np.log(score[near]), 2)
    if bend >= 0.0:
        return places[int(np.argmax(score))]
    top = middle - slope / (2.0 * bend)
    return round(float(np.clip(top, at.min(), at.max())))
