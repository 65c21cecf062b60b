"""What has arrived in the folders of sessions: kept on disk, so nothing comes twice.

A file is complete when its size and times have not changed for a while. What becomes
complete gets a number; a reader goes on from the last number that it has seen.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from em_platform.cryoem.sessions.mdocs import SessionMdocs, decided
from em_platform.cryoem.sessions.names import (
    files_of,
    is_movie,
    is_stack,
    safe,
)
from em_platform.cryoem.sessions.tables import (
    ARRIVALS,
    CHANGING,
    FILES,
    SESSION,
    TABLES,
    TAKEN,
    TILT_MOVIE,
    TILT_SERIES,
    UNDECIDED,
    Arrival,
)
from em_platform.cryoem.tilt_name import bare_name, tilt_name
from em_platform.errors import DataError
from em_platform.storage.database import WRITER, engine_of

_SEPARATOR = "~"
_FEWEST_TILTS = 3  # Murfey's: two images make no tomogram
_BLOCK = re.compile(r"^\[ZValue", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMovie:
    """A movie of a session; `series` and `angle_deg` only of a tilt."""

    key: str
    session: str
    path: Path
    mark: str
    series: str | None
    angle_deg: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What has been made of movies by now.

    Attributes
    ----------
    is_corrected
        Whether a movie's sum is there: a tilt series waits for all of its own.
    has_particles
        Whether those of a movie have been cut out.
    is_busy
        Whether any run of a session goes on: its classes wait for all of them, as one
        that fails must not hold the others up for ever.
    """

    is_corrected: Callable[[SessionMovie], bool]
    has_particles: Callable[[SessionMovie], bool]
    is_busy: Callable[[str], bool]


class SessionLedger:
    """The files of all sessions below a folder, by a database in the home."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder = folder
        self._engine = engine_of(f"sqlite:///{database}", setting="home")
        TABLES.create_all(self._engine)

    def __enter__(self) -> "SessionLedger":
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def look(
        self,
        now: float,
        *,
        settle_s: float,
        quiet_s: float,
        progress: Progress,
        picks_particles: Callable[[str], bool],
        followed: int = 0,
    ) -> None:
        """Note what is there now, and what has become complete.

        Parameters
        ----------
        now
            Seconds since 1970.
        picks_particles
            Whether a session is one of single particles, as its settings say.
        followed
            The last arrival for which a run was asked.
        """
        found = list(files_of(self._folder))
        mdocs = SessionMdocs(self._folder, [path for path, _ in found])
        with self._engine.execution_options(**WRITER).begin() as connection:
            known = {row.path: row for row in connection.execute(select(FILES)).all()}
            for path, status in found:
                if not mdocs.is_stack(PurePath(path)):
                    here = known.get(path)
                    self._record_file(connection, here, path, status, now, settle_s)
            for session in self._sessions(connection):
                last = select(func.max(FILES.c.since)).where(FILES.c.session == session)
                since = float(connection.execute(last).scalar() or 0)
                is_quiet = now - since >= quiet_s
                is_single = is_quiet or picks_particles(session)
                for kind, key, mark in decided(connection, session, mdocs, is_single):
                    self._arrive(connection, kind, key, session, mark)
                movies = self._movies(connection, session, None)
                self._complete_series(connection, session, movies, is_quiet, progress)
                if is_quiet:
                    single = [movie for movie in movies if not movie.series]
                    self._complete_particles(
                        connection, session, single, progress, followed
                    )

    def arrivals(self, after: int, *, most: int) -> list[Arrival]:
        """What became complete since a number, oldest first."""
        asked = select(ARRIVALS).where(ARRIVALS.c.number > after)
        with self._engine.begin() as connection:
            rows = connection.execute(asked.order_by("number").limit(most)).all()
        return [
            Arrival(
                number=r.number, kind=r.kind, key=r.key, session=r.session, mark=r.mark
            )
            for r in rows
        ]

    def movie(self, key: str) -> SessionMovie:
        """The movie of a key.

        Raises
        ------
        DataError
            There is none.
        """
        asked = select(FILES).where(FILES.c.key == key)
        with self._engine.begin() as connection:
            row = connection.execute(asked).first()
        if row is None:
            raise DataError(
                f"movie {key}: found no such movie in the sessions, one that has "
                "arrived was expected; see the folder `cryoem.sessions`"
            )
        return self._movie(row)

    def movies(self, session: str, series: str | None = None) -> list[SessionMovie]:
        """All complete movies of a session, or of one of its tilt series, by angle."""
        with self._engine.begin() as connection:
            return self._movies(connection, session, series)

    def expected_tilts(self, session: str, series: str) -> int | None:
        """How many tilts the series' mdoc has; None where it has no mdoc."""
        with self._engine.begin() as connection:
            return self._mdoc(connection, session, series)[0]

    def _record_file(
        self,
        connection: Connection,
        known: Any,
        path: str,
        status: os.stat_result,
        now: float,
        settle_s: float,
    ) -> None:
        mark = f"{status.st_size}-{status.st_mtime_ns}"
        # A copy may keep the time of the content, never that of the entry.
        since = min(now, max(status.st_mtime, status.st_ctime))
        if known is not None and known.mark == mark and known.complete != CHANGING:
            return
        pure = PurePath(path)
        if is_movie(pure) and is_stack(self._folder / path):
            return
        is_whole = status.st_size > 0 and now - since >= settle_s
        session = pure.parts[0]
        name = tilt_name(pure) if is_movie(pure) else None
        key = known.key if known else self._new_key(connection, session, pure)
        state = TAKEN if name or not is_movie(pure) else UNDECIDED
        row = {
            "path": path, "session": session, "mark": mark, "since": since,
            "complete": state if is_whole else CHANGING, "key": key,
            "series": name.series if name else None,
            "angle_deg": name.angle_deg if name else None,
        }  # fmt: skip
        change = insert(FILES).values(row)
        connection.execute(
            change.on_conflict_do_update(index_elements=["path"], set_=row)
        )
        if is_whole and name:
            self._arrive(connection, TILT_MOVIE, key, session, mark)

    @staticmethod
    def _new_key(connection: Connection, session: str, path: PurePath) -> str:
        stem = path.stem if is_movie(path) else path.name
        key = key_of(session, stem)
        taken = select(func.count()).where(FILES.c.key == key)
        if connection.execute(taken).scalar():
            # Two disks may hold movies of one name.
            key += f"-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"
        return key

    @staticmethod
    def _arrive(
        connection: Connection, kind: str, key: str, session: str, mark: str
    ) -> None:
        row = {"kind": kind, "key": key, "session": session, "mark": mark}
        connection.execute(ARRIVALS.insert().values(row))

    @staticmethod
    def _sessions(connection: Connection) -> list[str]:
        return list(connection.execute(select(FILES.c.session).distinct()).scalars())

    def _complete_series(
        self,
        connection: Connection,
        session: str,
        movies: list[SessionMovie],
        is_quiet: bool,
        progress: Progress,
    ) -> None:
        for series in sorted({m.series for m in movies if m.series}):
            tilts = [movie for movie in movies if movie.series == series]
            expected, _ = self._mdoc(connection, session, series)
            enough = len(tilts) >= expected if expected else is_quiet
            if len(tilts) < _FEWEST_TILTS or not enough:
                continue
            mark = _mark_of(tilts)
            key = key_of(session, series)
            if self._last_mark(connection, TILT_SERIES, key) != mark and all(
                map(progress.is_corrected, tilts)
            ):
                self._arrive(connection, TILT_SERIES, key, session, mark)

    def _complete_particles(
        self,
        connection: Connection,
        session: str,
        movies: list[SessionMovie],
        progress: Progress,
        followed: int,
    ) -> None:
        """Note the particles of a session that nothing is added to at present."""
        ready = [movie for movie in movies if progress.has_particles(movie)]
        mark, key = _mark_of(ready), safe(session)
        if not ready or self._last_mark(connection, SESSION, key) == mark:
            return
        waiting = select(func.count()).where(
            ARRIVALS.c.session == session, ARRIVALS.c.number > followed
        )
        if not connection.execute(waiting).scalar() and not progress.is_busy(session):
            self._arrive(connection, SESSION, key, session, mark)

    @staticmethod
    def _last_mark(connection: Connection, kind: str, key: str) -> str | None:
        asked = select(ARRIVALS.c.mark).where(
            ARRIVALS.c.kind == kind, ARRIVALS.c.key == key
        )
        return connection.execute(asked.order_by(ARRIVALS.c.number.desc())).scalar()

    def _mdoc(
        self, connection: Connection, session: str, series: str
    ) -> tuple[int | None, Path | None]:
        """How many tilts the mdoc of a series has, and where it is."""
        asked = select(FILES.c.path).where(
            FILES.c.session == session,
            FILES.c.complete == TAKEN,
            FILES.c.path.like("%.mdoc"),
        )
        for path in connection.execute(asked).scalars():
            if bare_name(PurePath(path)) != series:
                continue
            text = (self._folder / path).read_text("utf-8", errors="replace")
            if count := len(_BLOCK.findall(text)):
                return count, self._folder / path
        return None, None

    def tilt_series(self, key: str) -> tuple[str, str]:
        """Session and name of the tilt series of a key, as they stand on disk.

        Raises
        ------
        DataError
            There is none.
        """
        asked = select(FILES.c.session, FILES.c.series).distinct()
        with self._engine.begin() as connection:
            for session, series in connection.execute(asked).all():
                if series and key_of(session, series) == key:
                    return session, series
        raise DataError(
            f"tilt series {key}: found no such series in the sessions, one that has "
            "arrived was expected; see the folder `cryoem.sessions`"
        )

    def session(self, key: str) -> str:
        """The session of a key, as it is named on disk; DataError where none is."""
        with self._engine.begin() as connection:
            for name in self._sessions(connection):
                if safe(name) == key:
                    return name
        raise DataError(
            f"session {key}: found no such session, one that has movies was expected; "
            "see the folder `cryoem.sessions`"
        )

    def mdoc(self, session: str, series: str) -> Path | None:
        """The mdoc of a tilt series, if it has one."""
        with self._engine.begin() as connection:
            return self._mdoc(connection, session, series)[1]

    def _movies(
        self, connection: Connection, session: str, series: str | None
    ) -> list[SessionMovie]:
        asked = select(FILES).where(
            FILES.c.session == session, FILES.c.complete == TAKEN
        )
        if series is not None:
            asked = asked.where(FILES.c.series == series)
        rows = connection.execute(asked.order_by("angle_deg", "path")).all()
        return [self._movie(row) for row in rows if is_movie(PurePath(row.path))]

    def _movie(self, row: Any) -> SessionMovie:
        return SessionMovie(
            key=row.key,
            session=row.session,
            path=self._folder / row.path,
            mark=row.mark,
            series=row.series,
            angle_deg=row.angle_deg,
        )


def key_of(session: str, name: str) -> str:
    """The key of a movie or tilt series by the names on disk."""
    return f"{safe(session)}{_SEPARATOR}{safe(name)}"


def key_folder(key: str) -> Path:
    """Where the results of a movie or tilt series lie: its session, then its name."""
    session, _, name = key.partition(_SEPARATOR)
    return Path(session, name)


def _mark_of(movies: list[SessionMovie]) -> str:
    text = "\n".join(f"{movie.key} {movie.mark}" for movie in movies)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
