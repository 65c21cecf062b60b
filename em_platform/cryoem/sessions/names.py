"""What the names of files say: EPU, Thermo Fisher's Tomography, SerialEM.

The rules are those of Murfey's client
(https://github.com/DiamondLightSource/python-murfey), read in its documentation and
code: which file is a movie, and of which tilt series.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

_MOVIES = (".mrc", ".mrcs", ".tif", ".tiff", ".eer")
# Unfinished copies, EPU's logs, and what file browsers leave.
_SKIPPED = ("textual", "downloading")
_NO_MOVIES = ("gain", "atlas", "gridsquare", "searchmap", "_thumbnail", "defect")
# Position_1_001_-3.00_20230614_103022_fractions, and its EER or .mdoc.
_TOMOGRAPHY = re.compile(
    r"^(?P<series>.+?)_(?P<number>\d{1,4})_(?P<angle>-?\d+\.\d+)"
    r"(?:_\d{8}_\d{6})?(?:_(?:fractions|EER|Fractions))?$"
)
# Position_1_001[-3.00]-234_fractions: Tomography 5.7 and SerialEM's older names.
_BRACKETS = re.compile(
    r"^(?P<series>.+?)_?(?P<number>\d{1,4})?\[(?P<angle>-?[\d.]+)\].*$"
)
# TS_019_0000_8.0 and TS_019_000_-12.0_Jun06_23.51.26: SerialEM.
_SERIAL_EM = re.compile(
    r"^(?P<series>.+?)_(?P<number>\d{1,4})_(?P<angle>-?\d+(?:\.\d+)?)"
    r"(?:_[A-Z][a-z]{2}\d{2}_\d{2}\.\d{2}\.\d{2})?$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieName:
    """What a movie's name says; a movie of single particles has no series."""

    stem: str
    series: str | None = None
    angle_deg: float | None = None


def movie_name(path: PurePath) -> MovieName | None:
    """What the name of a file says; None: it is no movie, or not yet one."""
    name = path.name
    low = name.lower()
    if is_skipped(path) or not low.endswith(_MOVIES):
        return None
    if any(word in low for word in _NO_MOVIES):
        return None
    stem = name.rpartition(".")[0]
    if stem.startswith("FoilHole_"):
        # EPU writes the sum and more beside the movie of a hole.
        is_movie = low.endswith(".eer") or re.search(r"_(fractions|eer)$", stem, re.I)
        return MovieName(stem=stem) if is_movie else None
    for form in (_TOMOGRAPHY, _BRACKETS, _SERIAL_EM):
        if (found := form.match(stem)) and abs(float(found["angle"])) < 90:
            angle = float(found["angle"])
            return MovieName(stem=stem, series=found["series"], angle_deg=angle)
    return MovieName(stem=stem)


def is_skipped(path: PurePath) -> bool:
    """Whether a file is being copied, or belongs to no session."""
    low = path.name.lower()
    return low.startswith(".") or any(word in low for word in _SKIPPED)


def safe(name: str) -> str:
    """A name that can be a folder and a partition; different names stay different."""
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")
    if plain == name:
        return name
    return f"{plain or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def files_of(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Movies and mdocs of all sessions, relative to the folder, by name."""
    if not folder.is_dir():
        return
    for session in sorted(p for p in folder.iterdir() if p.is_dir()):
        if session.name.startswith("."):
            continue
        for parent, folders, files in os.walk(session):
            folders[:] = sorted(name for name in folders if name[0] != ".")
            for name in sorted(files):
                path = Path(parent, name)
                pure = path.relative_to(folder)
                is_mdoc = name.endswith(".mdoc") and not is_skipped(pure)
                if not is_mdoc and movie_name(pure) is None:
                    continue
                try:
                    yield str(pure), path.stat()
                except OSError:  # taken away at this moment
                    continue
