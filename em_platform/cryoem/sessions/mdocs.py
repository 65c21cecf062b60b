"""What the mdocs of sessions say of their movies, and which movies that decides."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from sqlalchemy import Connection, select, update

from em_platform.cryoem.series_mdoc import SeriesMdoc, read_series_mdoc
from em_platform.cryoem.sessions.names import is_movie, is_of_hole
from em_platform.cryoem.sessions.tables import (
    ARRIVALS,
    CHANGING,
    EARLY_MOVIE,
    FILES,
    MOVIE,
    TAKEN,
    TILT_MOVIE,
)
from em_platform.cryoem.tilt_name import movie_stem


class SessionMdocs:
    """What the mdocs among the files of sessions say of their movies.

    An mdoc counts before it is complete: it grows as long as its series is taken.
    """

    def __init__(self, folder: Path, paths: Iterable[str]) -> None:
        self._folder = folder
        self._of: dict[str, list[SeriesMdoc]] = {}
        self._naming: dict[tuple[str, str], list[SeriesMdoc]] = {}
        self._stacks: set[tuple[str, str]] = set()
        for path in paths:
            mdoc = read_series_mdoc(folder / path) if path.endswith(".mdoc") else None
            if mdoc is None:
                continue
            session = PurePath(path).parts[0]
            self._of.setdefault(session, []).append(mdoc)
            self._stacks.add((session, mdoc.image_file or ""))
            for stem in mdoc.tilts if mdoc.is_series else ():
                self._naming.setdefault((session, stem), []).append(mdoc)

    def tilt_of(self, path: PurePath) -> tuple[str, float] | None:
        """Series and angle of a movie; None where no series names it."""
        stem = movie_stem(path)
        naming = self._naming.get((path.parts[0], stem))
        if naming is None:
            return None
        own = str(self._folder / path)
        # Series of several folders may count their movies alike: the nearest it is.
        near = max(naming, key=lambda m: len(os.path.commonpath([str(m.path), own])))
        return near.series, near.tilts[stem].angle_deg

    def is_stack(self, path: PurePath) -> bool:
        """Whether a file is the stack of a series, and no movie."""
        return (path.parts[0], path.name) in self._stacks

    def has_series(self, session: str) -> bool:
        """Whether a session has tilt series, or what may become one."""
        return any(mdoc.is_series is not False for mdoc in self._of.get(session, ()))


def decided(
    connection: Connection, session: str, mdocs: SessionMdocs, is_single: bool
) -> list[tuple[str, str, str]]:
    """Take movies whose own names do not say whether they are tilts: kind, key, mark.

    A tilt is what a series' mdoc names, also where that comes late. Until then a movie
    waits, unless `is_single` (its session is quiet, or one of single particles).
    """
    asked = select(FILES).where(
        FILES.c.session == session,
        FILES.c.series.is_(None),
        FILES.c.complete != CHANGING,
    )
    begun = select(ARRIVALS.c.key, ARRIVALS.c.mark).where(
        ARRIVALS.c.session == session, ARRIVALS.c.kind == EARLY_MOVIE
    )
    early = {tuple(each) for each in connection.execute(begun)}
    found = []
    for row in connection.execute(asked.order_by("path")).all():
        path = PurePath(row.path)
        if not is_movie(path):
            continue
        series, angle_deg = mdocs.tilt_of(path) or (None, None)
        kind = TILT_MOVIE if series else MOVIE
        if row.complete == TAKEN and not series:
            continue
        if not series and not is_single and not is_of_hole(path):
            if mdocs.has_series(session) or (row.key, row.mark) in early:
                continue
            kind = EARLY_MOVIE
        else:
            taken = {"series": series, "angle_deg": angle_deg, "complete": TAKEN}
            change = update(FILES).where(FILES.c.path == row.path)
            connection.execute(change.values(taken))
        found.append((kind, row.key, row.mark))
    return found
