"""What was made of a simulated session beside its truth, by movie, series or session.

Each gives its checks, and none where the truth says nothing of it.
"""

from typing import TYPE_CHECKING

from em_platform.cryoem.sessions import tomography
from em_platform.cryoem.sessions.processing import Sessions
from em_platform.cryoem.sessions.truth import (
    MovieTruth,
    alignment_truth,
    defocus_truth,
    motion_truth,
    tomogram_truth,
)
from em_platform.model.check import Check

if TYPE_CHECKING:
    from em_platform.cryoem.sessions.particles_truth import TrueParticles


def compare_motion(sessions: Sessions, key: str) -> list[Check]:
    """Whether the frames of a movie moved as they were moved."""
    return motion_truth(sessions.correct(key).result, _movie(sessions, key))


def compare_defocus(sessions: Sessions, key: str) -> list[Check]:
    """Whether the defocus of a micrograph is the true one."""
    return defocus_truth(sessions.fit_ctf(key).result, _movie(sessions, key))


def compare_picks(sessions: Sessions, key: str) -> list[Check]:
    """Whether the particles of a micrograph were found, and nothing else."""
    # Readers of STAR files are not for those who only load the definitions.
    from em_platform.cryoem.methods.coordinates import read_points
    from em_platform.cryoem.sessions.particles_truth import picks_truth

    made, truth = sessions.pick(key), _particles(sessions, key)
    if truth is None:
        return []
    return picks_truth(read_points(made.folder / made.result.coordinates), truth)


def compare_classes(sessions: Sessions, key: str) -> list[Check]:
    """Whether the classes of a session are of one view each, and show it."""
    from em_platform.cryoem.sessions.particles_truth import classes_truth

    session = sessions.ledger.session(key)
    truth = sessions.truth(session)
    if truth is None or not truth.views:
        return []
    made = sessions.classify(key)
    truths = {
        movie.path.stem: found
        for movie in sessions.ledger.movies(session)
        if (found := _particles(sessions, movie.key)) is not None
    }
    return classes_truth(
        made.folder / made.result.data_star,
        made.folder / made.result.averages,
        truths=truths,
        views=sessions.folder / session / truth.views,
    )


def compare_shifts(sessions: Sessions, key: str) -> list[Check]:
    """Whether the tilts of a series lie where they are, along the tilt axis."""
    session, series = sessions.ledger.tilt_series(key)
    truth = sessions.truth(session)
    shifts = truth.tilt_shifts_px.get(series) if truth else None
    return alignment_truth(tomography.align(sessions, key).result, shifts)


def compare_tomogram(sessions: Sessions, key: str) -> list[Check]:
    """Whether the tomogram of a series shows the true sample."""
    session, series = sessions.ledger.tilt_series(key)
    truth = sessions.truth(session)
    if truth is None or series not in truth.samples:
        return []
    tomogram = tomography.reconstruct(sessions, key)
    return tomogram_truth(
        tomogram.folder / tomogram.result.tomogram,
        sessions.folder / session / truth.samples[series],
        [tilt.angle_deg for tilt in tomography.align(sessions, key).result.tilts],
    )


def _movie(sessions: Sessions, key: str) -> MovieTruth | None:
    movie = sessions.ledger.movie(key)
    truth = sessions.truth(movie.session)
    return truth.movies.get(movie.path.stem) if truth else None


def _particles(sessions: Sessions, key: str) -> "TrueParticles | None":
    from em_platform.cryoem.sessions.particles_truth import true_particles

    truth, made = _movie(sessions, key), sessions.micrograph(key)
    diameter_a = sessions.settings_of(
        sessions.ledger.movie(key).session
    ).particle_diameter_a
    if truth is None or made is None or diameter_a is None:
        return None
    return true_particles(truth, diameter_a / made.result.pixel_size_a)
