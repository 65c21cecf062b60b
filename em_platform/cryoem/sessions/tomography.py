"""What is made of a tilt series, from its corrected movies to pictures of tomograms."""

from typing import Any

from em_platform.cryoem.headers import read_header
from em_platform.cryoem.sessions.processing import Made, Sessions
from em_platform.cryoem.sessions.run_stage import run_stage
from em_platform.errors import DataError


def expected_tilts(sessions: Sessions, key: str) -> int | None:
    """How many tilts the series' mdoc has; None where it has no mdoc."""
    session, series = sessions.ledger.tilt_series(key)
    return sessions.ledger.expected_tilts(session, series)


def assemble(sessions: Sessions, key: str) -> Made:
    """The corrected images of a series in one stack, and those of their halves."""
    session, series = sessions.ledger.tilt_series(key)
    movies = sessions.ledger.movies(session, series)
    there = [(movie, sessions.micrograph(movie.key)) for movie in movies]
    kept = [(movie, made) for movie, made in there if made is not None]
    if not kept:
        raise DataError(
            f"tilt series {key}: found no corrected movie of {len(movies)}, all of "
            "them were expected; run the job process_movies for its movies"
        )
    given: dict[str, Any] = {
        "images": tuple(made.folder / made.result.micrograph for _, made in kept),
        "even": tuple(made.folder / made.result.even for _, made in kept),
        "odd": tuple(made.folder / made.result.odd for _, made in kept),
        "angles_deg": tuple(movie.angle_deg for movie, _ in kept),
        "series": series,
        "pixel_size": kept[0][1].result.pixel_size_a,
        "tilt_axis": _axis_deg(sessions, session, series),
    }
    folder = sessions.at(key, "stack")
    return Made(result=run_stage("assemble", given, folder), folder=folder)


def _axis_deg(sessions: Sessions, session: str, series: str) -> float | None:
    own = sessions.of(session).tilt_axis_deg
    first = sessions.ledger.movies(session, series)[0]
    return own if own is not None else read_header(first.path).axis_deg
