"""Which files of a session are movies, by their names: EPU, Tomography, SerialEM.

The rules are those of Murfey's client
(https://github.com/DiamondLightSource/python-murfey), read in its documentation and
code.
"""

import hashlib
import re
from pathlib import PurePath

_MOVIES = (".mrc", ".mrcs", ".tif", ".tiff", ".eer")
_OF_HOLES = ("_fractions", "_eer")
# Unfinished copies, EPU's logs, and what file browsers leave.
_SKIPPED = ("textual", "downloading")
_NO_MOVIES = ("gain", "atlas", "gridsquare", "searchmap", "_thumbnail", "defect")


def is_movie(path: PurePath) -> bool:
    """Whether a file is a movie by its name; not yet, while it is being copied."""
    low = path.name.lower()
    if is_skipped(path) or not low.endswith(_MOVIES):
        return False
    if low.startswith("foilhole_"):
        # EPU writes the sum and more beside the movie of a hole.
        return low.endswith(".eer") or path.stem.lower().endswith(_OF_HOLES)
    return not any(word in low for word in _NO_MOVIES)


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
