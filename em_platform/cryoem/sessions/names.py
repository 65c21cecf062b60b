"""Which files of a session are movies, by their names: EPU, Tomography, SerialEM.

The rules are those of Murfey's client
(https://github.com/DiamondLightSource/python-murfey), read in its documentation and
code.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

_MOVIES = (".mrc", ".mrcs", ".tif", ".tiff", ".eer")
_OF_HOLES = ("_fractions", "_eer")
# Unfinished copies, EPU's logs, and what file browsers leave.
_SKIPPED = ("textual", "downloading")
_ANGLE = re.compile(r"^TiltAngle = (.+)$", re.MULTILINE)
_PIECE = re.compile(r"^PieceCoordinates = ", re.MULTILINE)
_NO_MOVIES = ("gain", "atlas", "gridsquare", "searchmap", "_thumbnail", "defect")


def is_movie(path: PurePath) -> bool:
    """Whether a file is a movie by its name; not yet, while it is being copied."""
    low = path.name.lower()
    if is_skipped(path) or not low.endswith(_MOVIES):
        return False
    if is_of_hole(path):
        # EPU writes the sum and more beside the movie of a hole.
        return low.endswith(".eer") or path.stem.lower().endswith(_OF_HOLES)
    return not any(word in low for word in _NO_MOVIES)


def is_of_hole(path: PurePath) -> bool:
    """Whether EPU took it: of single particles."""
    return path.name.lower().startswith("foilhole_")


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
                if not is_mdoc and not is_movie(pure):
                    continue
                try:
                    yield str(pure), path.stat()
                except OSError:  # taken away at this moment
                    continue


def is_stack(path: Path) -> bool:
    """Whether SerialEM's mdoc of the file lists images of several tilts or places."""
    try:
        text = Path(f"{path}.mdoc").read_text("utf-8", errors="replace")
    except OSError:
        return False
    # The frames of one movie have one angle.
    return bool(_PIECE.search(text)) or len(set(_ANGLE.findall(text))) > 1
