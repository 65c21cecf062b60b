"""Which movies the mdoc of a tilt series names, and what it says of each.

SerialEM names the frames of each image in its series' mdoc (`SubFramePath`), so angle
and dose of a movie are known even where its own name has neither.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path, PurePath

from em_platform.cryoem.tilt_name import bare_name, movie_stem, tilt_name
from em_platform.errors import FormatError
from em_platform.formats import MdocTiltImage, read_mdoc_tilts

_FEWEST = 3
"""So many images at one angle are no tilt series, but a stack of single particles."""
_SPAN_DEG = 1.0
_FRAMES = re.compile(r"^SubFramePath = [^\n]*\n", re.MULTILINE)
_PIECE = re.compile(r"^PieceCoordinates = ", re.MULTILINE)
_BLOCK = re.compile(r"^(?=\[ZValue = )", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTilt:
    """A movie as its series' mdoc has it; doses in electrons per Å²."""

    angle_deg: float
    before: int
    """How many images were taken before it."""
    pre_exposure: float | None
    """The dose before it: SerialEM's own count, or the sum of the images before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesMdoc:
    """What an mdoc says of movies, by their stems."""

    path: Path
    series: str
    image_file: str | None
    axis_deg: float | None
    tilts: Mapping[str, NamedTilt]

    @property
    def is_series(self) -> bool | None:
        """Whether its angles differ; None: there are too few images to say so."""
        angles = [tilt.angle_deg for tilt in self.tilts.values()]
        if not angles or max(angles) - min(angles) >= _SPAN_DEG:
            return bool(angles)
        return None if len(angles) < _FEWEST else False


def read_series_mdoc(path: Path) -> SeriesMdoc | None:
    """What an mdoc says of movies, though it may still grow; None: nothing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _read(path, status.st_size, status.st_mtime_ns)


def mdoc_naming(movie: Path) -> SeriesMdoc | None:
    """The mdoc of a series that names a movie, in its folder or the one above."""
    # Its own name says that a tilt is one, before its series has more of them.
    known = (True, None) if tilt_name(movie) else (True,)
    for folder in (movie.parent, movie.parent.parent):
        for path in sorted(folder.glob("*.mdoc")):
            mdoc = read_series_mdoc(path)
            if mdoc and mdoc.is_series in known and movie_stem(movie) in mdoc.tilts:
                return mdoc
    return None


@lru_cache(maxsize=4096)  # looked at every few seconds, and rarely changed
def _read(path: Path, _size: int, _mtime_ns: int) -> SeriesMdoc | None:
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return None
    head, *blocks = _BLOCK.split(text)
    # The last image of an mdoc that grows may be half there.
    blocks = [each for each in blocks if _FRAMES.search(each)]
    if not blocks or _PIECE.search(text):
        return None  # of one movie, of none, or a montage
    try:
        found = read_mdoc_tilts(head + "".join(blocks), str(path))
    except FormatError:
        return None  # whoever puts the series together says so
    return SeriesMdoc(
        path=path,
        series=bare_name(path),
        image_file=found.image_file,
        axis_deg=found.axis_deg,
        tilts=_named(found.images),
    )


def _named(images: tuple[MdocTiltImage, ...]) -> dict[str, NamedTilt]:
    if all(image.taken_at for image in images):
        # SerialEM's times have seconds only: the later section is the newer one.
        images = tuple(
            sorted(images, key=lambda i: (i.taken_at or datetime.min, i.number))
        )
    found = {}
    total: float | None = 0.0
    for before, image in enumerate(images):
        dose = image.dose_e_per_a2
        # Where SerialEM measured no dose, it writes 0 for the one before, too.
        counted = image.prior_dose_e_per_a2 if dose else None
        known = counted if counted is not None else total if dose else None
        if image.frames:
            found[movie_stem(PurePath(image.frames))] = NamedTilt(
                angle_deg=round(image.tilt_deg, 4), before=before, pre_exposure=known
            )
        total = None if total is None or dose is None else total + dose
    return found
