"""The micrographs of a tilt series in one stack, by rising angle."""

from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, field_validator

from em_platform.cryoem.halves import half_paths, needed_halves, without_halves
from em_platform.cryoem.headers import stated_angle
from em_platform.cryoem.methods.pictures import encoded, faint, shrunk
from em_platform.cryoem.movies import read_image
from em_platform.cryoem.stage import (
    Option,
    Rule,
    StageParameters,
    StageResult,
    report_progress,
)
from em_platform.cryoem.tilt_name import bare_name, movie_stem, tilt_name
from em_platform.cryoem.tilt_series import angles_of_movies
from em_platform.errors import DataError
from em_platform.model.sentences import counted
from em_platform.storage import atomic

_SAME_DEG = 0.05  # as in `tilt_series`: of one angle the newest image counts
_SIDE_PX = 1024


class Parameters(StageParameters):
    """The images of a series, and their angles where no header states them."""

    images: Annotated[
        tuple[Path, ...],
        Option("INPUT", "the micrographs; their halves and _noDW are passed over"),
    ] = Field(min_length=1)
    angles_deg: tuple[float, ...] = ()
    halves: Annotated[
        bool,
        Option("--halves", "also stack the sums of even and odd frames, X_EVN, X_ODD"),
    ] = False
    tilts: Annotated[
        Path | None,
        Option(
            "--tilts", "mdoc of the series  [an mdoc, header or name of each image]"
        ),
    ] = None
    series: Annotated[
        str, Option("--name", "of the series  [of mdoc or images]"), Rule.SETTINGS
    ] = ""
    pixel_size: Annotated[
        float, Option("--pixel-size-a", "Å a pixel", header="pixel_size_a")
    ] = Field(gt=0, validation_alias=AliasChoices("pixel_size", "pix_size"))
    tilt_axis: Annotated[
        float | None, Option("--axis-deg", "of the tilt axis", header="axis_deg")
    ] = None

    @field_validator("images")
    @classmethod
    def _are_whole(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return without_halves(value)  # `motion/*/*.mrc` is often given


class Result(StageResult):
    """The stack, its angles, and what was left out."""

    stack: str
    even: str | None = None
    odd: str | None = None
    tilts: str
    picture: str
    tilts_deg: tuple[float, ...]
    images: tuple[str, ...]
    """Of each section, the file that it was."""
    replaced: tuple[str, ...]
    """Older images at the angle of another one."""
    pixel_size_a: float
    axis_deg: float | None


def run(parameters: Parameters, folder: Path) -> Result:
    """Write `NAME.mrc`, `NAME.rawtlt`, with `halves` also `NAME_EVN` and `NAME_ODD`.

    Raises
    ------
    FormatError
        An image cannot be read, has values that are not finite, or lacks its halves.
    DataError
        An angle is not known, or the images differ in size.
    """
    angles, name = _angles(parameters)
    order, replaced = _order(parameters.images, angles)
    chosen = [parameters.images[i] for i in order]
    halves = [needed_halves(image) if parameters.halves else {} for image in chosen]
    stack = folder / f"{name}.mrc"
    _write(stack, chosen, parameters.pixel_size)
    made = half_paths(stack) if parameters.halves else {}
    for half, path in made.items():
        _write(path, [each[half] for each in halves], parameters.pixel_size)
    tilts = [angles[i] for i in order]
    lines = "".join(f"{angle:.4f}\n" for angle in tilts)
    atomic.write_bytes(folder / f"{name}.rawtlt", lines.encode())
    level = int(np.abs(tilts).argmin())
    atomic.write_bytes(
        folder / f"{name}.jpeg", _picture(parameters.images[order[level]])
    )
    return Result(
        stack=stack.name,
        **{half: path.name for half, path in made.items()},
        tilts=f"{name}.rawtlt",
        picture=f"{name}.jpeg",
        tilts_deg=tuple(tilts),
        images=tuple(str(parameters.images[i]) for i in order),
        replaced=tuple(str(parameters.images[i]) for i in replaced),
        pixel_size_a=parameters.pixel_size,
        axis_deg=parameters.tilt_axis,
    )


def _angles(parameters: Parameters) -> tuple[list[float], str]:
    """The angle of each image, and the name of their series."""
    given, mdoc = parameters.angles_deg, parameters.tilts
    named = tilt_name(parameters.images[0])
    known: dict[str, float] = {}
    if mdoc is not None:
        series, known = bare_name(mdoc), angles_of_movies(mdoc)
    else:
        series = named.series if named else "tilt_series"
    if given and len(given) != len(parameters.images):
        raise DataError(
            f"assemble: found {counted(len(given), 'angle')} and "
            f"{counted(len(parameters.images), 'image')}, "
            "one angle an image was expected; correct the list"
        )
    found = []
    for i, path in enumerate(parameters.images):
        if given:
            angle: float | None = given[i]
        elif mdoc is not None:
            angle = known.get(movie_stem(path))
        else:
            angle = stated_angle(path)
        if angle is None:
            raise DataError(
                f"{path}: no tilt angle stands in {mdoc or 'its header, mdoc or name'};"
                " give the mdoc of its series by --tilts, or leave it out"
            )
        found.append(round(float(angle), 4))
    return found, parameters.series or series


def _order(
    images: tuple[Path, ...], angles: list[float]
) -> tuple[list[int], list[int]]:
    """Images by rising angle, the newest of each, and those that are left out."""
    kept: list[int] = []
    replaced: list[int] = []
    changed = [path.stat().st_mtime_ns if path.exists() else 0 for path in images]
    for i in sorted(range(len(angles)), key=lambda i: (angles[i], changed[i], i)):
        if kept and angles[i] - angles[kept[-1]] <= _SAME_DEG:
            replaced.append(kept.pop())
        kept.append(i)
    return kept, replaced


def _write(path: Path, images: list[Path], pixel_a: float) -> None:
    import mrcfile

    first = read_image(images[0])
    with atomic.whole_file(path) as own:
        shape = len(images), *first.shape
        # One image at a time: a series of 4k x 4k does not fit into memory.
        with mrcfile.new_mmap(own, shape, mrc_mode=2, overwrite=True) as file:
            for i, each in enumerate(images):
                image = read_image(each)
                _check(each, image, images[0], first)
                file.data[i] = image
                report_progress("stack", i + 1, len(images))
            file.set_image_stack()
            file.voxel_size = pixel_a
            # mrcfile's own label has the time: the same images give the same bytes.
            file.header.label[:] = b""
            file.header.label[0] = b"em_platform"
            file.header.nlabl = 1


def _check(
    path: Path, image: NDArray[np.float32], other: Path, first: NDArray[np.float32]
) -> None:
    if image.shape != first.shape:
        raise DataError(
            f"{path}: found {image.shape[1]} x {image.shape[0]} pixels, those of "
            f"{other} ({first.shape[1]} x {first.shape[0]}) were expected; leave it out"
        )


def _picture(path: Path) -> bytes:
    import PIL.Image

    image = read_image(path)
    levels = faint(image, of=path)
    if levels is None:
        levels = np.zeros(image.shape, np.uint8)
    return encoded(shrunk(PIL.Image.fromarray(levels), (_SIDE_PX, _SIDE_PX)), ".jpeg")
