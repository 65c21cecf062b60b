"""How many electrons a tilt's specimen has had before its movie was taken."""

from em_platform.config.cryoem import SessionSettings
from em_platform.cryoem.headers import read_header
from em_platform.cryoem.movies import open_movie
from em_platform.cryoem.series_mdoc import NamedTilt, read_series_mdoc
from em_platform.cryoem.sessions.ledger import SessionLedger, SessionMovie
from em_platform.cryoem.tilt_name import movie_stem, tilt_name

# So many digits has SerialEM's counter of all frames that a camera took.
_COUNTER_FROM = 10_000


def dose_before(
    movie: SessionMovie, own: SessionSettings, ledger: SessionLedger
) -> float | None:
    """Electrons per Å² before a tilt; None of single particles, and where unknown.

    What SerialEM measured counts, in the movie's mdoc or in that of its series; else
    the tilts before it, by that mdoc or the number in its name, at the dose of this
    one.
    """
    if movie.series is None:
        return None
    header = read_header(movie.path)
    if header.pre_exposure is not None:
        return header.pre_exposure
    mdoc = _tilt_in_mdoc(movie, ledger)
    if mdoc is not None and mdoc.pre_exposure is not None:
        return mdoc.pre_exposure
    dose = own.dose_per_frame or header.dose_per_frame
    before = mdoc.before if mdoc else _tilts_before(movie, ledger)
    if dose is None or before is None:
        return None
    return before * open_movie(movie.path).shape[0] * dose


def _tilt_in_mdoc(movie: SessionMovie, ledger: SessionLedger) -> NamedTilt | None:
    path = ledger.mdoc(movie.session, movie.series or "")
    mdoc = None if path is None else read_series_mdoc(path)
    return None if mdoc is None else mdoc.tilts.get(movie_stem(movie.path))


def _tilts_before(movie: SessionMovie, ledger: SessionLedger) -> int | None:
    named = tilt_name(movie.path)
    if named is None or named.number is None:
        return None
    others = (tilt_name(m.path) for m in ledger.movies(movie.session, movie.series))
    first = min(o.number for o in others if o is not None and o.number is not None)
    # Some count tilts from 0, some from 1, and the first may yet have to come.
    return named.number - (first if first >= _COUNTER_FROM else min(first, 1))
