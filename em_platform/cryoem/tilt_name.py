"""What the name of a tilt says: its series, its number in the acquisition, its angle.

One reading for sessions, services and projects, so that they agree of which series a
file is. Names: Thermo Fisher's Tomography, SerialEM, and Murfey's readers of both
(https://github.com/DiamondLightSource/python-murfey).
"""

import re
from dataclasses import dataclass
from pathlib import PurePath

_FORMS = (
    # Position_1_001_-3.00_20230614_103022_fractions (Tomography 5), TS_019_0000_8.0 and
    # TS_01_00993_33.0_Oct08_07.39.05 (SerialEM). An angle has its decimals: without
    # them any two numbers would be a tilt.
    re.compile(
        r"(?P<series>.+?)_(?P<number>\d{1,6})_(?P<angle>[-+]?\d+\.\d+)(?:_.*)?$"
    ),
    # Position_1_001[-3.00]-234_fractions and Position_1_[-3.00] (Tomography 5.7). Its
    # number has three digits: one or two are of the series' own name.
    re.compile(
        r"(?P<series>.+?)(?:_(?P<number>\d{3,4}))?_?\[(?P<angle>[-+]?\d+(?:\.\d+)?)\].*$"
    ),
)
_OUTPUT_SUFFIX = "_motion_corrected"
# No stage tilts so far; a larger number is something else.
_END_DEG = 90.0
# SerialEM's counter of all frames that a camera took has so many digits; one of fewer
# shows by a number that no series reaches, which is 180° by steps of half a degree.
_COUNTER_DIGITS = 5
_MOST_TILTS = 360


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltName:
    """What the name of a tilt says."""

    series: str
    number: int | None
    """In the acquisition, from 0 or from 1; None where the name does not say it."""
    angle_deg: float
    is_counted_by_camera: bool = False
    """Whether the number is of all that a camera took, and not of the series."""


def tilt_name(path: PurePath) -> TiltName | None:
    """The parts of the name of a tilt's movie or image; None: it names no tilt."""
    stem = path.stem.removesuffix(_OUTPUT_SUFFIX)
    for form in _FORMS:
        found = form.match(stem)
        if found and abs(float(found["angle"])) < _END_DEG:
            number = found["number"]
            return TiltName(
                series=found["series"],
                number=None if number is None else int(number),
                angle_deg=float(found["angle"]),
                is_counted_by_camera=number is not None
                and (len(number) >= _COUNTER_DIGITS or int(number) > _MOST_TILTS),
            )
    return None


def bare_name(path: PurePath) -> str:
    """The name without what images and mdocs end in: `TS_1` of `TS_1.mrc.mdoc`."""
    return re.sub(r"(\.gz|\.mdoc|\.(mrcs?|st|tiff?|eer|ali))+$", "", path.name)


def movie_stem(path: PurePath) -> str:
    """What a movie, and the sum of its frames, are known by in an mdoc."""
    return bare_name(path).removesuffix(_OUTPUT_SUFFIX)


def series_of(path: PurePath) -> str:
    """The series of a tilt, a stack or a volume: `TS_1_stack_Vol` is of `TS_1`.

    The name of a tilt says it; any other counts up to its last digit, as upstream's.
    """
    named = tilt_name(path)
    if named is not None:
        return named.series
    found = re.match(r".*\d", path.stem)
    return found[0] if found else path.stem
