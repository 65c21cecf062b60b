"""The micrographs of a tilt series in one stack, by rising angle."""

from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field

from em_platform.cryoem.headers import read_header
from em_platform.cryoem.methods.pictures import encoded, faint, shrunk
from em_platform.cryoem.movies import read_image
from em_platform.cryoem.stage import (
    Option,
    StageParameters,
    StageResult,
    report_progress,
)
from em_platform.errors import DataError
from em_platform.storage import atomic

_SAME_DEG = 0.05  # as in `tilt_series`: of one angle the newest image counts
_SIDE_PX = 1024


class Parameters(StageParameters):
    """The images of a series, and their angles where no header states them."""

    images: Annotated[tuple[Path, ...], Option("INPUT", "one micrograph a tilt")] = (
        Field(min_length=1)
    )
    angles_deg: tuple[float, ...] = ()
    even: tuple[Path, ...] = ()
    """Sums of every other frame, in the order of the images; for denoising."""
    odd: tuple[Path, ...] = ()
    series: Annotated[str, Option("--name", "of the series")] = "tilt_series"
    pixel_size: Annotated[
        float, Option("--pixel-size-a", "Å a pixel", header="pixel_size_a")
    ] = Field(gt=0, validation_alias=AliasChoices("pixel_size", "pix_size"))
    tilt_axis: Annotated[
        float | None, Option("--axis-deg", "of the tilt axis", header="axis_deg")
    ] = None


class Result(StageResult):
    """The stack, its angles, and what was left out."""

    stack: str
    even: str | None
    odd: str | None
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
    """Write `NAME.mrc`, `NAME.rawtlt`, and stacks of the halves where they are given.

    Raises
    ------
    FormatError
        An image cannot be read, or has values that are not finite.
    DataError
        An angle is not known, or the images differ in size.
    """
    angles = _angles(parameters)
    order, replaced = _order(parameters.images, angles)
    name = parameters.series
    stacks = {"": parameters.images, "_even": parameters.even, "_odd": parameters.odd}
    for ending, images in stacks.items():
        if images:
            chosen = [images[i] for i in order]
            _write(folder / f"{name}{ending}.mrc", chosen, parameters.pixel_size)
    tilts = [angles[i] for i in order]
    lines = "".join(f"{angle:.4f}\n" for angle in tilts)
    atomic.write_bytes(folder / f"{name}.rawtlt", lines.encode())
    level = int(np.abs(tilts).argmin())
    atomic.write_bytes(
        folder / f"{name}.jpeg", _picture(parameters.images[order[level]])
    )
    return Result(
        stack=f"{name}.mrc",
        even=f"{name}_even.mrc" if parameters.even else None,
        odd=f"{name}_odd.mrc" if parameters.odd else None,
        tilts=f"{name}.rawtlt",
        picture=f"{name}.jpeg",
        tilts_deg=tuple(tilts),
        images=tuple(str(parameters.images[i]) for i in order),
        replaced=tuple(str(parameters.images[i]) for i in replaced),
        pixel_size_a=parameters.pixel_size,
        axis_deg=parameters.tilt_axis,
    )


def _angles(parameters: Parameters) -> list[float]:
    given = parameters.angles_deg
    if given and len(given) != len(parameters.images):
        raise DataError(
            f"assemble: found {len(given)} angles and {len(parameters.images)} images, "
            "one angle an image was expected; correct the list"
        )
    found = []
    for i, path in enumerate(parameters.images):
        angle = given[i] if given else read_header(path).tilt_deg
        if angle is None:
            raise DataError(
                f"{path}: no tilt angle stands in its header or mdoc; give the angles "
                "of all images"
            )
        found.append(round(float(angle), 4))
    return found


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
