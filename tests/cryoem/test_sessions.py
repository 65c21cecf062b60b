"""Files of sessions are taken when they are complete, each once, and tilts together."""

import os
import re
import time
from pathlib import Path, PurePath

import numpy as np
import pytest

from em_platform.cryoem.sessions.ledger import Progress, SessionLedger, key_folder
from em_platform.cryoem.sessions.names import is_movie, safe
from em_platform.cryoem.sessions.tables import (
    EARLY_MOVIE,
    MOVIE,
    SESSION,
    TILT_MOVIE,
    TILT_SERIES,
)
from em_platform.errors import PlatformError

SETTLE_S, QUIET_S = 30.0, 600.0


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Position_1_001_-3.00_20230614_103022_fractions.tiff", True),
        ("FoilHole_1_Data_2_3_20230101_120000_fractions.tiff", True),
        ("FoilHole_1_Data_2_3_20230101_120000_EER.eer", True),
        ("grid7_0001.mrc", True),
        ("FoilHole_1_Data_2_3_20230101_120000.mrc", False),  # the sum of EPU
        ("FoilHole_1_Data_2_3_20230101_120000.jpg", False),
        (".a_fractions.tiff", False),
        ("a.tiff.downloading", False),
        ("Gain_reference.mrc", False),
        ("GridSquare_1.mrc", False),
        ("a.xml", False),
        ("a.mdoc", False),
    ],
)
def test_which_files_are_movies(name: str, wanted: bool) -> None:
    assert is_movie(PurePath("session", "raw", name)) == wanted


def test_safe_names_stay_different() -> None:
    assert safe("grid-7") == "grid-7"
    assert len({safe("a b"), safe("a-b"), safe("a/b"), safe("é"), safe("ü")}) == 5


class Watched:
    """A folder of sessions, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "sessions"
        self.folder.mkdir()
        self.database = folder / "ledger.sqlite"
        # Later than any entry is changed: then the times that are set count.
        self.now = time.time() + 100
        self.corrected: set[str] = set()
        self.cut: set[str] = set()
        self.busy: set[str] = set()
        self.of_particles = {"grid 1"}
        self.seen = 0

    def put(self, path: str, content: str = "frames") -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        os.utime(file, (self.now, self.now))

    def look(self, passed_s: float = 0) -> list[tuple[str, str]]:
        """What became complete since the last look, by a ledger that is opened anew."""
        self.now += passed_s
        with self.open() as ledger:
            ledger.look(
                self.now,
                settle_s=SETTLE_S,
                quiet_s=QUIET_S,
                progress=Progress(
                    is_corrected=lambda movie: movie.key in self.corrected,
                    has_particles=lambda movie: movie.key in self.cut,
                    is_busy=lambda session: session in self.busy,
                ),
                picks_particles=lambda session: session in self.of_particles,
                followed=self.seen,
            )
            found = ledger.arrivals(self.seen, most=100)
        self.seen = found[-1].number if found else self.seen
        return [(each.kind, each.key) for each in found]

    def open(self) -> SessionLedger:
        return SessionLedger(self.folder, self.database)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_movie_is_taken_once_when_it_stopped_to_change(watched: Watched) -> None:
    watched.put("grid1/disc1/FoilHole_1_fractions.tiff", "half")
    assert watched.look() == []
    watched.now += 20
    watched.put("grid1/disc1/FoilHole_1_fractions.tiff", "whole")
    assert watched.look(SETTLE_S - 1) == []
    wanted = [(MOVIE, "grid1~FoilHole_1_fractions")]
    assert watched.look(1) == wanted
    assert watched.look(100) == []
    # It is written over: it comes once more.
    watched.put("grid1/disc1/FoilHole_1_fractions.tiff", "corrected")
    assert watched.look(SETTLE_S) == wanted
    with watched.open() as ledger:
        movie = ledger.movie("grid1~FoilHole_1_fractions")
    assert movie.path == watched.folder / "grid1/disc1/FoilHole_1_fractions.tiff"
    assert key_folder(movie.key) == Path("grid1/FoilHole_1_fractions")


def test_movies_of_one_name_have_keys_of_their_own(watched: Watched) -> None:
    watched.put("grid 1/a/m1.mrc")
    watched.put("grid 1/b/m1.mrc")
    watched.put("grid 1/b/empty.mrc", "")
    keys = [key for kind, key in watched.look(SETTLE_S) if kind == MOVIE]
    assert len({*keys}) == 2
    with watched.open() as ledger:
        assert {ledger.movie(key).path.parent.name for key in keys} == {"a", "b"}
        assert ledger.session(keys[0].partition("~")[0]) == "grid 1"


def tilt(number: int, angle: float) -> str:
    return f"Position_1_{number:03d}_{angle:.2f}_20230614_1030{number:02d}_fractions"


def put_series(watched: Watched, angles: list[float]) -> list[str]:
    for number, angle in enumerate(angles, 1):
        watched.put(f"grid1/{tilt(number, angle)}.tiff")
    return [f"grid1~{tilt(n, a)}" for n, a in enumerate(angles, 1)]


def mdoc(angles: list[float]) -> str:
    return "\n".join(
        f"[ZValue = {n}]\nTiltAngle = {a}\nSubFramePath = X:\\{tilt(n + 1, a)}.tiff\n"
        for n, a in enumerate(angles)
    )


def test_a_tilt_series_waits_for_its_mdoc_and_for_all_sums(watched: Watched) -> None:
    angles = [0.0, 3.0, -3.0, 6.0]
    keys = put_series(watched, angles[:3])
    watched.put("grid1/Position_1.mdoc", mdoc(angles))
    assert watched.look(SETTLE_S) == [(TILT_MOVIE, key) for key in sorted(keys)]
    watched.corrected |= {*keys}
    assert watched.look(60) == []  # one tilt of the mdoc is missing
    watched.put(f"grid1/{tilt(4, 6.0)}.tiff")
    last = f"grid1~{tilt(4, 6.0)}"
    assert watched.look(SETTLE_S) == [(TILT_MOVIE, last)]
    assert watched.look(60) == []  # it is not corrected yet
    watched.corrected.add(last)
    assert watched.look() == [(TILT_SERIES, "grid1~Position_1")]
    assert watched.look(10_000) == []
    with watched.open() as ledger:
        assert ledger.tilt_series("grid1~Position_1") == ("grid1", "Position_1")
        found = [m.angle_deg for m in ledger.movies("grid1", "Position_1")]
        assert found == sorted(angles)
        assert ledger.expected_tilts("grid1", "Position_1") == 4


def test_a_real_session_of_serialem(watched: Watched, shared_data: Path) -> None:
    """Stack, mdoc and frames as they lay at EMBL; frames with an mdoc of their own."""
    text = (shared_data / "mdoc/tilt_series.mdoc").read_text()
    frames = re.findall(r"SubFramePath = .*\\(.+)", text)
    for name in frames[1:]:
        watched.put(f"s1/frames/{name}")
    watched.put("s1/TS_01.mrc.mdoc", text)
    watched.put("s1/TS_01.mrc")  # the stack is no movie
    found = watched.look(SETTLE_S)
    assert len(found) == len(frames) - 1 == 40
    assert {kind for kind, _ in found} == {TILT_MOVIE}
    watched.corrected |= {f"s1~{PurePath(name).stem}" for name in frames}
    assert watched.look(60) == []
    watched.put(f"s1/frames/{frames[0]}")
    first = f"s1~{PurePath(frames[0]).stem}"
    assert watched.look(SETTLE_S) == [(TILT_MOVIE, first), (TILT_SERIES, "s1~TS_01")]
    with watched.open() as ledger:
        angles = [m.angle_deg for m in ledger.movies("s1", "TS_01")]
        assert angles == pytest.approx(range(-60, 61, 3))

    keys = set()
    for path in (shared_data / "cryoem/cryocat/frames_mdoc").iterdir():
        watched.put(f"s2/{path.name}", path.read_text())
        watched.put(f"s2/{path.stem}")
        keys.add(f"s2~{PurePath(path.stem).stem}")
    assert {key for _, key in watched.look(SETTLE_S)} == keys
    watched.corrected |= keys
    assert watched.look(QUIET_S) == [(TILT_SERIES, "s2~TS_019")]


@pytest.fixture
def named_by_mdoc(watched: Watched, shared_data: Path) -> tuple[list[str], str]:
    """Movies of a real series, whose names have no angle, and its mdoc."""
    text = (shared_data / "cryoem/cryocat/TS_017/017.mdoc").read_text()
    names = re.findall(r"SubFramePath = (.+)", text)
    assert names[0] == "017_01.mrc"
    watched.corrected |= {f"s1~{PurePath(name).stem}" for name in names}
    return names, text


def test_movies_are_tilts_by_the_mdoc_that_names_them(
    watched: Watched, named_by_mdoc: tuple[list[str], str]
) -> None:
    names, text = named_by_mdoc
    head, *images = re.split(r"(?m)^(?=\[ZValue)", text)
    # The mdoc grows with its series; its third image is half there.
    for name in names[:2]:
        watched.put(f"s1/frames/{name}")
    watched.put("s1/017.mdoc", head + images[0] + images[1] + images[2][:300])
    watched.put("s1/TS_017.mrc")  # the mdoc calls it its stack
    found = watched.look(SETTLE_S)
    assert found == [(TILT_MOVIE, "s1~017_01"), (TILT_MOVIE, "s1~017_02")]
    for name in names[2:]:
        watched.put(f"s1/frames/{name}")
    # What no mdoc names yet waits in a session that has series.
    assert watched.look(SETTLE_S) == []
    watched.put("s1/017.mdoc", text)
    wanted = {(TILT_MOVIE, f"s1~{PurePath(name).stem}") for name in names[2:]}
    assert {*watched.look()} == wanted
    assert watched.look(SETTLE_S) == [(TILT_SERIES, "s1~017")]
    assert watched.look(10_000) == []
    with watched.open() as ledger:
        angles = [m.angle_deg for m in ledger.movies("s1", "017")]
    assert angles[0] == pytest.approx(-52, abs=0.02)
    assert np.allclose(np.diff(angles), 2, atol=0.05)


def test_movies_before_their_mdoc_are_decided_late_and_once(
    watched: Watched, named_by_mdoc: tuple[list[str], str]
) -> None:
    names, text = named_by_mdoc
    keys = sorted(f"s1~{PurePath(name).stem}" for name in names)
    for name in names:
        watched.put(f"s1/frames/{name}")
    # Sum and CTF are made at once; rows and jobs wait until it is known of what.
    assert watched.look(SETTLE_S) == [(EARLY_MOVIE, key) for key in keys]
    assert watched.look(100) == []
    with watched.open() as ledger:
        assert ledger.movies("s1") == []
    watched.put("s1/017.mdoc", text)
    assert watched.look() == [(TILT_MOVIE, key) for key in keys]
    assert watched.look(SETTLE_S) == [(TILT_SERIES, "s1~017")]
    # Particles that SerialEM took, by a stack's mdoc or without one: when it is quiet.
    flat = re.sub(r"TiltAngle = .*", "TiltAngle = 0.01", text).replace("017_", "g_")
    watched.put("s2/stack.mrc.mdoc", flat)
    watched.put("s2/g_01.mrc")
    watched.put("s2/FoilHole_1_fractions.mrc")
    epu, single = (MOVIE, "s2~FoilHole_1_fractions"), "s2~g_01"
    assert watched.look(SETTLE_S) == [epu, (EARLY_MOVIE, single)]
    assert watched.look(QUIET_S) == [(MOVIE, single)]
    assert watched.look(QUIET_S) == []


def test_a_late_tilt_asks_for_the_series_again(watched: Watched) -> None:
    keys = put_series(watched, [0.0, 3.0, -3.0])
    watched.put("grid1/Position_1.mdoc", mdoc([0.0, 3.0, -3.0]))
    watched.corrected |= {*keys, f"grid1~{tilt(4, 6.0)}"}
    assert (TILT_SERIES, "grid1~Position_1") in watched.look(SETTLE_S)
    watched.put(f"grid1/{tilt(4, 6.0)}.tiff")
    late = watched.look(SETTLE_S)
    assert late == [
        (TILT_MOVIE, f"grid1~{tilt(4, 6.0)}"),
        (TILT_SERIES, "grid1~Position_1"),
    ]


def test_without_an_mdoc_a_series_is_taken_when_all_is_quiet(watched: Watched) -> None:
    watched.corrected |= {*put_series(watched, [0.0, 3.0, -3.0])}
    assert TILT_SERIES not in {kind for kind, _ in watched.look(SETTLE_S)}
    assert watched.look(QUIET_S) == [(TILT_SERIES, "grid1~Position_1")]


def test_the_particles_of_a_session_wait_until_it_is_quiet(watched: Watched) -> None:
    first, second = (f"grid1~FoilHole_{n}_fractions" for n in (1, 2))
    watched.put("grid1/FoilHole_1_fractions.tiff")
    assert watched.look(SETTLE_S) == [(MOVIE, first)]
    watched.cut.add(first)
    assert watched.look() == []
    assert watched.look(QUIET_S) == [(SESSION, "grid1")]
    assert watched.look(QUIET_S) == []
    watched.put("grid1/FoilHole_2_fractions.tiff")
    watched.cut.add(second)
    # No run of it was asked for yet.
    assert watched.look(QUIET_S) == [(MOVIE, second)]
    watched.busy.add("grid1")
    assert watched.look() == []
    watched.busy.clear()
    assert watched.look() == [(SESSION, "grid1")]


def test_classes_are_made_of_what_there_is_and_again_when_more_comes(
    watched: Watched,
) -> None:
    for number in (1, 2):
        watched.put(f"grid1/FoilHole_{number}_fractions.tiff")
    movies = [key for _, key in watched.look(QUIET_S)]
    assert watched.look() == []  # all failed: there is nothing to classify
    for key in movies:
        watched.cut.add(key)  # the second one after a retry
        assert watched.look() == [(SESSION, "grid1")]


def test_unknown_keys_are_one_sentence(watched: Watched) -> None:
    with watched.open() as ledger:
        for ask in (ledger.movie, ledger.tilt_series, ledger.session):
            with pytest.raises(PlatformError, match="nothing~such"):
                ask("nothing~such")
