"""How many electrons a tilt's specimen has had before its movie was taken."""

import os
from contextlib import suppress
from pathlib import Path

from em_platform.cryoem.headers import read_header
from em_platform.cryoem.movies import open_movie
from em_platform.cryoem.series_mdoc import SeriesMdoc, mdoc_naming
from em_platform.cryoem.tilt_name import movie_stem, tilt_name


def dose_before(
    movie: Path,
    *,
    dose_per_frame: float | None,
    frames: int | None = None,
    mdoc: SeriesMdoc | None = None,
) -> float | None:
    """Electrons per Å² before a tilt; None where nothing says it.

    What SerialEM measured counts, in the movie's mdoc or in that of its series; else
    the tilts before it (`tilts_before`), at the dose of this one.

    Parameters
    ----------
    dose_per_frame
        None, 0: that of the header.
    frames
        Of the movie, as `dose_per_frame` counts them; None: those of the file.
    mdoc
        That of the series, where it lies elsewhere than beside the movie or above.

    Raises
    ------
    FormatError
        The movie cannot be read.
    """
    header = read_header(movie)
    if header.pre_exposure is not None:
        return header.pre_exposure
    mdoc = mdoc or mdoc_naming(movie)
    tilt = mdoc.tilts.get(movie_stem(movie)) if mdoc else None
    if tilt is not None and tilt.pre_exposure is not None:
        return tilt.pre_exposure
    dose = dose_per_frame or header.dose_per_frame
    before = tilt.before if tilt else tilts_before(movie)
    if dose is None or before is None:
        return None
    return before * (frames or open_movie(movie).shape[0]) * dose


def tilts_before(path: Path) -> int | None:
    """How many tilts were taken before that of a movie or image, by their numbers.

    A number that has its place in the series, from 0 or from 1, counts those before it,
    also where they are missing. A camera's own counter only orders the tilts that lie
    in the folder: between two of them it may have counted images of other specimens.
    """
    named = tilt_name(path)
    if named is None or named.number is None:
        return None
    beside: list[str] = []
    with suppress(OSError, ValueError):  # a folder of another computer
        beside = os.listdir(path.parent)
    others = [named, *(found for each in beside if (found := tilt_name(Path(each))))]
    numbers = {
        other.number: other.is_counted_by_camera
        for other in others
        if other.series == named.series and other.number is not None
    }
    first = min(numbers)
    if numbers[first]:
        return sum(number < named.number for number in numbers)
    return named.number - min(first, 1)
