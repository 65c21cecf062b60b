"""Particles sorted into 2-D classes, and the average of each."""

from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, field_validator

from em_platform.cryoem.image_files import write_mrc
from em_platform.cryoem.methods.averages2d import Average, average, transfer
from em_platform.cryoem.methods.boxes import mask_for, shrunk_box
from em_platform.cryoem.methods.class_files import (
    class_picture,
    classes_star,
    particles_with_classes,
)
from em_platform.cryoem.methods.classify2d import Classes, classify
from em_platform.cryoem.methods.mapped_mrc import mapped_volume
from em_platform.cryoem.methods.particle_star import Particles, read_particles
from em_platform.cryoem.stage import (
    ENGINE,
    GPUS,
    Option,
    Rule,
    StageParameters,
    StageResult,
    TimeLimit,
    report_progress,
)
from em_platform.errors import DataError
from em_platform.model import Model
from em_platform.model.sentences import counted
from em_platform.storage.atomic import write_bytes

Float = NDArray[np.float32]

_SIDE_PX = 64
"""To which boxes are shrunk for sorting; averages have the size of the boxes."""
_FEWEST = 10
"""Particles a class: fewer make an average of noise."""
_SOFT_PX = 3.0


class Parameters(StageParameters):
    """Particles, and how many classes of which size are looked for."""

    particles_file: Annotated[
        tuple[Path, ...], Option("INPUT", "STAR files of particles, sorted together")
    ] = Field(min_length=1)
    class2d_nr_classes: Annotated[
        int, Option("--classes", "at most; each has 10 particles or more on average")
    ] = Field(50, ge=1, le=500)
    class2d_nr_iter: Annotated[int, Option("--iterations", "of the sorting")] = Field(
        25, ge=1, le=200
    )
    particle_diameter: Annotated[
        float, Option("--diameter-a", "of the particles, Å; sets the mask")
    ] = Field(0, ge=0)
    mask_diameter: Annotated[
        float | None, Option("--mask-a", "diameter of the mask, Å; else 0.9 of a box")
    ] = Field(None, gt=0)
    offset_range: Annotated[
        float, Option("--offset-px", "of a particle from the middle of its box")
    ] = Field(5, ge=0, le=50)
    tau_fudge: Annotated[float, Option("--tau", "how much detail is believed")] = Field(
        2, gt=0
    )
    do_ctf: Annotated[bool, Option("--ctf", "use the particles' CTF")] = True
    seed: Annotated[int, Option("--seed", "the same seed sorts in the same way")] = (
        Field(0, ge=0, validation_alias=AliasChoices("seed", "random_seed"))
    )

    engine: Annotated[Literal["builtin", "relion"], ENGINE] = "builtin"
    time_limit_s: TimeLimit = 86400.0
    threads: Annotated[int, Option("--threads", "of RELION")] = Field(1, ge=1, le=256)
    gpus: Annotated[
        str | None, Option("--gpus", "of RELION, such as 0 or 0:1"), Rule.NAME
    ] = Field(None, pattern=GPUS)
    # From here on by messages; RELION takes them.
    oversampling: int = 1
    psi_step: float = Field(12.0, gt=0)
    offset_step: float = Field(2.0, gt=0)

    @field_validator("particles_file", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value  # as messages have


class ClassSummary(Model):
    """One class, the largest first; its number is that of the files."""

    number: int
    particles: int
    share: float
    resolution_a: float | None


class Result(StageResult):
    """The classes that were found."""

    particles: int
    pixel_size_a: float
    mask_diameter_a: float
    classes: tuple[ClassSummary, ...]
    averages: str
    data_star: str
    model_star: str
    picture: str


def run(parameters: Parameters, folder: Path) -> Result:
    """Sort particles into classes.

    Writes what RELION's Class2D writes of its last iteration
    (`run_it025_classes.mrcs`, `_data.star`, `_model.star`) and `classes.jpeg`.

    Raises
    ------
    FormatError
        A table or a stack cannot be read.
    DataError
        There are too few particles, or they differ in size.
    ToolMissing, ToolFailed
        RELION is not there, or did not do it.
    """
    tables = [read_particles(path) for path in parameters.particles_file]
    optics = tables[0].optics
    boxes = _joined([_boxes(table) for table in tables])
    if len(boxes) < _FEWEST:
        raise DataError(
            f"classify: found {len(boxes)} particles, at least {_FEWEST} were "
            "expected; pick more micrographs, or with a lower threshold"
        )
    mask_a = _mask_a(parameters, boxes.shape[-1] * optics.pixel_size_a)
    if parameters.engine != "builtin":
        from em_platform.cryoem.programs.engine import run_engine

        made = run_engine(
            "classify", parameters, folder,
            tables=tables, classes=_most_classes(parameters, len(boxes)), mask_a=mask_a,
        )  # fmt: skip
        return Result(**made, pixel_size_a=optics.pixel_size_a, mask_diameter_a=mask_a)
    boxes = _masked(boxes, mask_a / optics.pixel_size_a)
    transfers = _transfers(tables, boxes.shape[-1]) if parameters.do_ctf else None
    found, scale = _sorted(parameters, boxes, transfers)
    order = _by_size(found)
    averages: list[Average] = []
    for place, number in enumerate(order, 1):
        averages.append(
            average(
                boxes,
                found,
                np.flatnonzero(found.classes == number),
                transfers=transfers,
                pixel_a=optics.pixel_size_a,
                scale=scale,
            )
        )
        report_progress("averages", place, len(order))
    return _written(
        parameters, folder, tables, found, order, averages, scale=scale, mask_a=mask_a
    )


def _boxes(table: Particles) -> Float:
    """The images of a table, `(n, side, side)`."""
    found = []
    for stack, some in groupby(table.images, key=lambda each: each[1]):
        volume, _ = mapped_volume(stack)
        numbers = [number for number, _ in some]
        if max(numbers) >= len(volume) or min(numbers) < 0:
            raise DataError(
                f"{stack}: found {counted(len(volume), 'image')}, image "
                f"{max(numbers) + 1} was expected; extract the particles again"
            )
        found.append(np.asarray(volume[numbers], np.float32))
    return _joined(found)


def _joined(found: list[Float]) -> Float:
    sides = sorted({boxes.shape[1:] for boxes in found})
    if len(sides) > 1 or len({*sides[0]}) > 1:
        raise DataError(
            f"classify: found boxes of {len(sides)} sizes, such as {sides[0]}, squares "
            "of one size were expected; extract them with the same box"
        )
    images = np.concatenate(found)
    if not np.isfinite(images.sum(dtype=np.float64)):
        raise DataError(
            "classify: found pixels that are not numbers, finite values were expected; "
            "extract the particles again"
        )
    return images


def _mask_a(parameters: Parameters, box_a: float) -> float:
    if parameters.mask_diameter is not None and not parameters.particle_diameter:
        return min(parameters.mask_diameter, box_a)
    if parameters.particle_diameter:
        return min(mask_for(parameters.particle_diameter), box_a)
    return 0.9 * box_a


def _masked(boxes: Float, diameter_px: float) -> Float:
    """Mean 0, deviation 1, and nothing outside of a round mask with a soft edge."""
    side = boxes.shape[-1]
    axis = np.arange(side) - side // 2
    radius = np.hypot(*np.meshgrid(axis, axis, indexing="ij"))
    mask = np.clip((diameter_px / 2 - radius) / _SOFT_PX + 0.5, 0, 1)
    mask = mask.astype(np.float32)
    tiny = np.finfo(np.float32).tiny
    boxes = boxes - boxes.mean(axis=(1, 2), keepdims=True)
    boxes /= np.maximum(boxes.std(axis=(1, 2), keepdims=True), tiny)
    inside = (boxes * mask).sum(axis=(1, 2), keepdims=True) / mask.sum()
    return np.asarray((boxes - inside) * mask, np.float32)


def _transfers(tables: list[Particles], side: int) -> list[Float] | None:
    """The contrast transfer of each particle; None where a table has no defocus."""
    found: list[Float] = []
    for table in tables:
        if table.defocus_a is None:
            return None
        optics = table.optics
        kept: dict[tuple[float, ...], Float] = {}
        rows = zip(table.defocus_a, table.phase_shift_deg.tolist(), strict=True)
        for defocus, phase in rows:
            key = (*defocus.tolist(), phase)
            if key not in kept:
                # Particles of one micrograph share theirs.
                kept[key] = transfer(
                    side,
                    pixel_a=optics.pixel_size_a,
                    defocus_a=defocus,
                    phase_deg=phase,
                    voltage_kv=optics.voltage_kv,
                    spherical_mm=optics.spherical_mm,
                    amplitude_contrast=optics.amplitude_contrast,
                )
            found.append(kept[key])
    return found


def _most_classes(parameters: Parameters, particles: int) -> int:
    return min(parameters.class2d_nr_classes, max(1, particles // _FEWEST))


def _sorted(
    parameters: Parameters, boxes: Float, transfers: list[Float] | None
) -> tuple[Classes, float]:
    """The classes, and how many pixels of the boxes their shifts are counted in."""
    from threadpoolctl import threadpool_limits

    side = min(boxes.shape[-1], _SIDE_PX)
    scale = boxes.shape[-1] / side
    small = np.stack([shrunk_box(box, side) for box in boxes]) if scale > 1 else boxes
    classes = _most_classes(parameters, len(boxes))
    on_rings = None
    if transfers is not None:
        # Along x: the small astigmatism does not matter at this size.
        on_rings = np.stack([gain[0, 1 : side // 2 + 1] for gain in transfers])
    # Small products of matrices: more threads only wait for each other.
    with threadpool_limits(1, user_api="blas"):
        found = classify(
            small,
            classes=classes,
            iterations=parameters.class2d_nr_iter,
            shift_px=parameters.offset_range / scale,
            transfer=on_rings,
            seed=parameters.seed,
            fudge=parameters.tau_fudge,
            progress=lambda done, total: report_progress("sorting", done, total),
        )
    return found, scale


def _by_size(found: Classes) -> list[int]:
    sizes = np.bincount(found.classes)
    order = np.argsort(-sizes, kind="stable")
    return [int(number) for number in order if sizes[number]]


def _written(
    parameters: Parameters,
    folder: Path,
    tables: list[Particles],
    found: Classes,
    order: list[int],
    averages: list[Average],
    *,
    scale: float,
    mask_a: float,
) -> Result:
    start = f"run_it{parameters.class2d_nr_iter:03d}"
    count, optics = len(found.classes), tables[0].optics
    summaries = tuple(
        ClassSummary(
            number=place,
            particles=each.particles,
            share=each.particles / count,
            resolution_a=each.resolution_a,
        )
        for place, each in enumerate(averages, 1)
    )
    result = Result(
        particles=count,
        pixel_size_a=optics.pixel_size_a,
        mask_diameter_a=mask_a,
        classes=summaries,
        averages=f"{start}_classes.mrcs",
        data_star=f"{start}_data.star",
        model_star=f"{start}_model.star",
        picture="classes.jpeg",
    )
    images = np.stack([each.image for each in averages])
    write_mrc(folder / result.averages, images, pixel_size_a=optics.pixel_size_a)
    numbers = {number: place for place, number in enumerate(order, 1)}
    data = particles_with_classes(
        tables,
        found,
        numbers=numbers,
        pixel_a=optics.pixel_size_a * scale,
        folder=folder.absolute(),
    )
    write_bytes(folder / result.data_star, data)
    model = classes_star(averages, result.averages, optics=optics)
    write_bytes(folder / result.model_star, model)
    write_bytes(folder / result.picture, class_picture(averages))
    return result
