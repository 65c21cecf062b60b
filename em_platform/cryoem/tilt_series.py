"""A tilt series put together: its images by angle, whatever files say so.

Known are SerialEM's mdoc of a whole stack, its mdocs of single images, and a stack with
a list of angles (.tlt, .rawtlt). Of images with the same angle the newest one counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.cryoem.movies import Movie, open_movie
from em_platform.cryoem.tilt_name import bare_name, movie_stem
from em_platform.errors import FormatError
from em_platform.formats import MdocTilts, read_mdoc_tilts, read_text
from em_platform.model.sentences import counted, size_of

ANGLE_FILES = (".tlt", ".rawtlt")
# Two images at one angle differ by less than this.
_SAME_DEG = 0.05
# What programs put behind the name of a movie's sum.
_SUMS = ("{}.mrc", "{}_motion_corrected.mrc", "{}_fractions.mrc", "{}.tif", "{}.tiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltImage:
    """One image: a section of a file, counted from 0, or all of a file."""

    file: Path
    section: int | None
    angle_deg: float
    order: int | None = None
    """When it was taken: 0 is the first; None: nobody knows."""
    dose: float | None = None
    pre_exposure: float | None = None
    """Electrons per square ångström, in it and before it."""
    taken_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltSeries:
    """Images by rising angle, and what all have in common."""

    name: str
    images: tuple[TiltImage, ...]
    replaced: tuple[TiltImage, ...] = ()
    """Older images at the angle of another one."""
    pixel_size_a: float | None = None
    voltage_kv: float | None = None
    axis_deg: float | None = None

    @property
    def angles_deg(self) -> NDArray[np.float64]:
        """`(n,)`, rising."""
        return np.array([image.angle_deg for image in self.images])

    def section_of(self, index: int) -> int:
        """Where an image stands in its stack; images of several files by angle."""
        section = self.images[index].section
        return index if section is None else section


def find_series(source: Path, *, tilts: Path | None = None) -> TiltSeries:
    """The series that a file or folder is about.

    Parameters
    ----------
    source
        A stack; the mdoc of a stack; a folder with an image and an mdoc for each tilt.
    tilts
        Angles of a stack, one a line, or its mdoc. Without it they are looked for
        beside the stack: `NAME.mrc.mdoc`, `NAME.mdoc`, `NAME.tlt`, `NAME.rawtlt`.

    Raises
    ------
    FormatError
        No angles, other numbers of angles and images, or an image that is not there.
    """
    if source.is_dir():
        return _of_single_mdocs(source)
    if source.suffix == ".mdoc":
        return _of_mdoc(source, None)
    angles = tilts or _beside(source)
    if angles is None:
        raise FormatError(
            f"{source}: no angles were found for this stack, an mdoc, .tlt or .rawtlt "
            "of its name was expected beside it; give them by --tilts"
        )
    if angles.suffix == ".mdoc":
        return _of_mdoc(angles, source)
    values = read_angles(angles)
    count = open_movie(source).shape[0]
    if len(values) != count:
        raise FormatError(
            f"{angles}: found {counted(len(values), 'angle')}, {source} has "
            f"{counted(count, 'image')}; give "
            "the list of this stack"
        )
    images = [
        TiltImage(file=source, section=i, angle_deg=angle)
        for i, angle in enumerate(values)
    ]
    return _ordered(TiltSeries(name=bare_name(source), images=tuple(images)))


def angles_of_movies(mdoc: Path) -> dict[str, float]:
    """The angle of each movie that the mdoc of a series names, by the movie's stem.

    Raises
    ------
    FormatError
        It is no mdoc, or has no angles.
    """
    images = read_mdoc_tilts(read_text(str(mdoc)), str(mdoc)).images
    return {
        movie_stem(PurePath(image.frames)): image.tilt_deg
        for image in images
        if image.frames
    }


def listed_series(files: Sequence[tuple[str, float]], *, name: str) -> TiltSeries:
    """The series of a list of files and angles, as messages have it.

    Raises
    ------
    FormatError
        A file is not there, or there is none.
    """
    images = []
    for file, angle in files:
        path = Path(file)
        if not path.is_file():
            raise _missing(name, path, angle)
        changed = datetime.fromtimestamp(path.stat().st_mtime)
        images.append(
            TiltImage(file=path, section=None, angle_deg=angle, taken_at=changed)
        )
    return _ordered(TiltSeries(name=name, images=tuple(images)))


def read_angles(path: Path) -> list[float]:
    """Angles in degrees, the first number of each line.

    Raises
    ------
    FormatError
        There is no such file, or a line has no number.
    """
    found = []
    for number, line in enumerate(read_text(str(path)).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            angle = float(line.split()[0])
        except ValueError:
            angle = np.nan
        if not abs(angle) < 90:
            raise FormatError(
                f"{path}: line {number} is {line.strip()[:40]!r}, an angle between -90 "
                "and 90 degrees was expected; correct it"
            )
        found.append(angle)
    return found


def with_dose(
    series: TiltSeries, *, dose_per_tilt: float | None, initial: float = 0.0
) -> TiltSeries:
    """The series with the dose of each image and before it, where it is known at all.

    The mdoc's own doses win; else each image gets `dose_per_tilt`, in the order in
    which they were taken.
    """
    doses = [image.dose or dose_per_tilt for image in series.images]
    orders = [image.order for image in series.images]
    if None in doses or None in orders:
        return series
    before = initial
    found: dict[int, TiltImage] = {}
    for i in sorted(range(len(orders)), key=lambda i: orders[i] or 0):
        image, dose = series.images[i], doses[i] or 0.0
        stated = image.pre_exposure
        pre = stated if stated is not None else before
        found[i] = replace(image, dose=dose, pre_exposure=pre)
        before = pre + dose
    return replace(series, images=tuple(found[i] for i in range(len(orders))))


class Images:
    """The images of a series, read one at a time."""

    def __init__(self, series: TiltSeries) -> None:
        self._series = series
        self._opened: dict[Path, Movie] = {}
        first = series.images[0]
        self.shape = self._open(first.file).shape[1:]
        for image in series.images:
            shape = self._open(image.file).shape
            if shape[1:] != self.shape:
                raise FormatError(
                    f"{image.file}: found {size_of(shape[1:])}, the first image of "
                    f"the series has {size_of(self.shape)}; give images "
                    "of one size"
                )

    def __call__(self, index: int) -> NDArray[np.float32]:
        """Image `index` by angle, `(h, w)`; of a movie the mean of its frames.

        Raises
        ------
        FormatError
            It is damaged, or has values that are no numbers.
        """
        image = self._series.images[index]
        movie = self._open(image.file)
        if image.section is None:
            total = np.zeros(self.shape, np.float32)
            for i in range(movie.shape[0]):
                total += movie.frame(i)
            found = np.asarray(total / movie.shape[0], np.float32)
        else:
            found = np.asarray(movie.frame(image.section), np.float32)
        if not np.isfinite(found).all():
            wrong = int(np.size(found) - np.isfinite(found).sum())
            raise FormatError(
                f"{image.file}: the image at {image.angle_deg:g} degrees has {wrong} "
                "pixels that are no numbers (NaN or infinite), grey levels were "
                "expected; make it again or leave it out by --exclude"
            )
        return found

    def _open(self, file: Path) -> Movie:
        if file not in self._opened:
            self._opened[file] = open_movie(file)
        return self._opened[file]


def _of_mdoc(path: Path, stack: Path | None) -> TiltSeries:
    """The series of one mdoc: of a stack, or of movies whose sums lie beside it."""
    mdoc = read_mdoc_tilts(read_text(str(path)), str(path))
    name = bare_name(path)
    near = [path.with_suffix("")] if path.with_suffix("").suffix else []
    near += [path.parent / mdoc.image_file] if mdoc.image_file else []
    stack = stack or next((file for file in near if file.is_file()), None)
    if stack is not None:
        return _ordered(_of_stack(mdoc, stack, name))
    images = []
    for number, tilt in enumerate(mdoc.images):
        shown = Path(tilt.frames or mdoc.image_file or "?")
        file = next(
            (
                path.parent / form.format(bare_name(shown))
                for form in _SUMS
                if tilt.frames
                and (path.parent / form.format(bare_name(shown))).is_file()
            ),
            None,
        )
        if file is None:
            raise _missing(str(path), path.parent / shown, tilt.tilt_deg)
        images.append(_image(file, None, mdoc, number))
    return _ordered(_series(name, mdoc, images))


def _of_stack(mdoc: MdocTilts, stack: Path, name: str) -> TiltSeries:
    count = open_movie(stack).shape[0]
    numbers = [tilt.number for tilt in mdoc.images]
    for tilt in mdoc.images:
        if tilt.number >= count:
            raise FormatError(
                f"{stack}: the mdoc has image {tilt.number} at {tilt.tilt_deg:g} "
                f"degrees, the stack has {count} images of {len(numbers)}; copy the "
                "whole stack, or give the mdoc that belongs to it"
            )
    if count > len(numbers):
        raise FormatError(
            f"{stack}: found {counted(count, 'image')}, its mdoc has {len(numbers)}; "
            "give the mdoc that belongs to it"
        )
    images = [_image(stack, n, mdoc, i) for i, n in enumerate(numbers)]
    return _series(name, mdoc, images)


def _of_single_mdocs(folder: Path) -> TiltSeries:
    paths = sorted(folder.glob("*.mdoc"))
    images, mdocs = [], []
    for path in paths:
        mdoc = read_mdoc_tilts(read_text(str(path)), str(path))
        file = path.with_suffix("")
        if not file.is_file():
            raise _missing(str(path), file, mdoc.images[0].tilt_deg)
        images.append(_image(file, None, mdoc, 0))
        mdocs.append(mdoc)
    if not images:
        raise FormatError(
            f"{folder}: found no mdoc in this folder, one for each tilt was expected; "
            "name the folder of the images, or a stack"
        )
    return _ordered(_series(folder.name, mdocs[0], images))


def _image(file: Path, section: int | None, mdoc: MdocTilts, number: int) -> TiltImage:
    tilt = mdoc.images[number]
    return TiltImage(
        file=file,
        section=section,
        angle_deg=tilt.tilt_deg,
        dose=tilt.dose_e_per_a2,
        pre_exposure=tilt.prior_dose_e_per_a2,
        taken_at=tilt.taken_at,
    )


def _series(name: str, mdoc: MdocTilts, images: Sequence[TiltImage]) -> TiltSeries:
    return TiltSeries(
        name=name,
        images=tuple(images),
        pixel_size_a=mdoc.pixel_a,
        voltage_kv=mdoc.voltage_kv,
        axis_deg=mdoc.axis_deg,
    )


def _ordered(series: TiltSeries) -> TiltSeries:
    """Sorted by angle, the newest of each, with the order in which they were taken."""
    kept: list[TiltImage] = []
    older: list[TiltImage] = []
    for image in sorted(series.images, key=lambda each: each.angle_deg):
        if not kept or image.angle_deg - kept[-1].angle_deg > _SAME_DEG:
            kept.append(image)
        elif _moment(image) >= _moment(kept[-1]):
            older.append(kept[-1])
            kept[-1] = image
        else:
            older.append(image)
    if all(image.taken_at for image in kept):
        times = sorted(range(len(kept)), key=lambda i: _moment(kept[i]))
        order = {index: number for number, index in enumerate(times)}
        kept = [replace(image, order=order[i]) for i, image in enumerate(kept)]
    pre = [image.pre_exposure for image in kept]
    if len(kept) > 1 and len(set(pre)) == 1:
        # SerialEM without a dose calibration writes 0 in all.
        kept = [replace(image, pre_exposure=None) for image in kept]
    return replace(series, images=tuple(kept), replaced=tuple(older))


def _moment(image: TiltImage) -> tuple[datetime, int]:
    # SerialEM's times have seconds only: the later section is the newer one.
    return image.taken_at or datetime.min, image.section or 0


def _beside(stack: Path) -> Path | None:
    stem = stack.with_name(bare_name(stack))
    names = [Path(f"{stack}.mdoc"), Path(f"{stem}.mrc.mdoc"), Path(f"{stem}.mdoc")]
    names += [Path(f"{stem}{end}") for end in ANGLE_FILES]
    return next((path for path in names if path.is_file()), None)


def _missing(whose: str, path: Path, angle_deg: float) -> FormatError:
    return FormatError(
        f"{whose}: the image at {angle_deg:g} degrees is missing, {path} was expected; "
        "copy it, or give a list without this tilt"
    )


def input_list(given: Any) -> list[tuple[str, float]]:
    """Files and angles of a message: a list of pairs, or its text in Python's form.

    Raises
    ------
    ValueError
        It is none, or has an empty pair.
    """
    import ast

    try:
        pairs = ast.literal_eval(given) if isinstance(given, str) else given
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        # The last one is python's word for too many brackets.
        raise ValueError("input_file_list is no list of [file, angle]") from error
    if not isinstance(pairs, list | tuple) or isinstance(pairs, Mapping):
        raise ValueError("input_file_list is no list of [file, angle]")
    found = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) < 2 or not pair[0]:
            raise ValueError(f"input_file_list: {pair!r} is no [file, angle]")
        found.append((str(pair[0]), float(pair[1])))
    return found
