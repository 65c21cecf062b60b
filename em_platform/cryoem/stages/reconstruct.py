"""A tomogram from an aligned tilt series, by weighted back-projection or a program.

Fields have the names and defaults of cryoem-services' AreTomo service.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AliasChoices, Field, model_validator

from em_platform.cryoem.alignment_files import SeriesAlignment, read_alignment
from em_platform.cryoem.halves import needed_halves
from em_platform.cryoem.methods.tomogram_size import TomogramSize, tomogram_size
from em_platform.cryoem.movies import Movie, open_movie
from em_platform.cryoem.stage import (
    ENGINE,
    Option,
    ResultFields,
    StageParameters,
    StageResult,
    TimeLimit,
    named_engine,
    report_progress,
)
from em_platform.cryoem.tilt_name import bare_name
from em_platform.cryoem.tomogram_file import (
    make_room,
    write_header,
    write_slab,
)
from em_platform.errors import ConfigError, FormatError
from em_platform.formats.mrc_stack import PartMark
from em_platform.model.sentences import counted
from em_platform.storage import atomic

if TYPE_CHECKING:
    from em_platform.cryoem.methods.backprojection import Geometry

_LEAST_TILTS = 3
# A slab of the volume; a few of them are in memory at a time.
_SLAB_BYTES = 32 << 20
# Steeper than this a line of the volume would cross any image.
_STEEPEST_DEG = 85.0
# Each holds an image in its own type and in floats, and its lines.
_MOST_PX = 1 << 16
_IMAGES_AT_A_TIME = 4
_SLABS_AT_A_TIME = 8


class Parameters(StageParameters):
    """Parameters of a reconstruction; pixels are those of the stack."""

    stack_file: Annotated[Path, Option("INPUT", "the stack of the tilt series")]
    alignment: Annotated[
        Path | None,
        Option("--alignment", ".aln, or .xf with .tlt beside it  [beside the stack]"),
    ] = Field(None, validation_alias=AliasChoices("alignment", "align_file"))
    pixel_size: Annotated[
        float, Option("--pixel-size-a", "Å per pixel of the stack", "pixel_size_a")
    ] = Field(gt=0, validation_alias=AliasChoices("pixel_size", "pix_size"))
    out_bin: Annotated[
        int | None,
        Option("--bin", "bin the images by so much  [up to 4]"),
    ] = Field(None, ge=1, le=64)
    vol_z: Annotated[
        int | None,
        Option("--vol-z", "height in pixels of the stack, else by the thickness found"),
    ] = Field(None, ge=1, le=_MOST_PX)
    max_vol: Annotated[int, Option("--max-vol", "greatest height found")] = Field(
        1800, ge=1, le=_MOST_PX
    )
    min_vol: Annotated[
        int | None, Option("--min-vol", "least height found  [600 for 4096 px]")
    ] = Field(None, ge=1, le=_MOST_PX)
    extra_vol: Annotated[
        int | None, Option("--extra-vol", "more than the thickness  [400 for 4096 px]")
    ] = Field(None, ge=0, le=_MOST_PX)
    flip_int: Annotated[
        bool, Option("--invert", "turn the contrast round: protein is bright")
    ] = False
    cutoff: Annotated[
        float, Option("--cutoff", "frequency, in cycles a pixel, where the ramp ends")
    ] = Field(0.35, gt=0, le=0.5)
    falloff: Annotated[
        float, Option("--falloff", "sigma of its end, in cycles a pixel")
    ] = Field(0.05, ge=0, le=0.5)
    halves: Annotated[
        bool,
        Option("--halves", "also of even and odd frames: NAME_EVN.mrc, NAME_ODD.mrc"),
    ] = False
    ome_zarr: Annotated[
        bool, Option("--ome-zarr", "write an OME-Zarr with its pyramid, too")
    ] = False
    engine: Annotated[Literal["builtin", "aretomo2", "aretomo3", "imod"], ENGINE] = (
        "builtin"
    )
    time_limit_s: TimeLimit = 7200.0
    # From here on by messages; AreTomo takes them.
    aretomo_version: Literal[2, 3] = 3
    second_bin: int | None = None
    ctf_cor: int | None = None
    sart_iterations: int | None = None
    sart_projections: int | None = None
    wbp: int | None = None
    kv: float | None = Field(None, validation_alias=AliasChoices("kv", "voltage"))
    cs: float | None = Field(None, validation_alias=AliasChoices("cs", "spher_aber"))
    amplitude_contrast: float | None = Field(
        None, validation_alias=AliasChoices("amplitude_contrast", "ampl_contrast")
    )
    interpolation_correction: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_the_version(cls, values: Any) -> Any:
        return named_engine(values, "aretomo", field="aretomo_version", latest=3)


class Result(StageResult):
    """The tomogram `(z, y, x)`, y along the tilt axis."""

    tomogram: str
    even: str | None = None
    odd: str | None = None
    ome_zarr: str | None
    size_x: int
    size_y: int
    size_z: int
    size_reason: str = ""  # of the binning and the height
    pixel_size_a: float
    tilts: int
    rotation_deg: float
    thickness_px: float | None
    thickness_a: float | None


def run(parameters: Parameters, folder: Path) -> Result:
    """Write `NAME_Vol.mrc`, and its halves and `NAME_Vol.ome.zarr` if asked for.

    Raises
    ------
    FormatError
        Stack or alignment cannot be read, or do not belong together.
    StorageError
        The disk is full, or the like.
    ToolMissing, ToolFailed
        The program on PATH is not there, or did not do it.
    """
    aln = _alignment_file(parameters)
    alignment = read_alignment(aln)
    movie = open_movie(parameters.stack_file)
    _check(parameters, alignment, movie)
    size = tomogram_size(
        movie.shape,
        thickness_px=alignment.thickness_px,
        binning=parameters.out_bin,
        height_px=parameters.vol_z,
        least_px=parameters.min_vol,
        more_px=parameters.extra_vol,
        most_px=parameters.max_vol,
    )
    parameters = parameters.model_copy(update={"out_bin": size.binning})
    geometry = geometry_of(size, alignment, movie.shape)
    halves = _half_stacks(parameters, movie) if parameters.halves else {}
    place = partial(_made, alignment=alignment, geometry=geometry, aln=aln)
    made = place(parameters, folder)
    # One after the other: in memory there are the slabs of one tomogram at a time.
    for half, path in halves.items():
        own = parameters.model_copy(update={"stack_file": path})
        made[half] = place(own, folder)["tomogram"]
    zarr = None
    if parameters.ome_zarr:
        zarr = made["tomogram"].removesuffix(".mrc") + ".ome.zarr"
        _write_zarr(folder / made["tomogram"], folder / zarr)
    thickness = alignment.thickness_px
    return Result(
        **made,
        size_reason=size.reason,
        ome_zarr=zarr,
        tilts=len(alignment.images),
        rotation_deg=round(geometry.axis_deg, 4),
        thickness_px=thickness,
        thickness_a=None
        if thickness is None
        else round(thickness * parameters.pixel_size, 1),
    )


def _half_stacks(parameters: Parameters, movie: Movie) -> dict[str, Path]:
    found = needed_halves(parameters.stack_file)
    for path in found.values():
        if (shape := open_movie(path).shape) != movie.shape:
            raise FormatError(
                f"{path}: found {shape} pixels (images, y, x), those of the whole "
                f"stack, {movie.shape}, were expected; stack it of the same images"
            )
    return found


def _made(
    parameters: Parameters, folder: Path, *, aln: Path, **common: Any
) -> ResultFields:
    """Write the tomogram of one stack; the fields of the result that say what it is."""
    if parameters.engine == "builtin":
        return _back_projected(parameters, folder, **common)
    from em_platform.cryoem.programs.engine import run_engine

    found: ResultFields = run_engine(
        "reconstruct", parameters, folder, aln=aln, **common
    )
    return found


def _back_projected(
    parameters: Parameters,
    folder: Path,
    *,
    alignment: SeriesAlignment,
    geometry: "Geometry",
) -> ResultFields:
    movie = open_movie(parameters.stack_file)
    name = parameters.stack_file.name.removesuffix(".gz").rpartition(".")[0]
    tomogram = f"{name}_Vol.mrc"
    pixel_size_a = parameters.pixel_size * (parameters.out_bin or 1)
    with atomic.whole_file(folder / tomogram) as own:
        with tempfile.TemporaryDirectory(prefix=".lines-", dir=folder) as scratch:
            lines = Path(scratch) / "lines.dat"
            _write_lines(lines, parameters, alignment, movie, geometry)
            marks = _write_slabs(own, lines, geometry)
        write_header(own, geometry.shape, marks, pixel_size_a=pixel_size_a)
    return {
        "tomogram": tomogram,
        "size_x": geometry.shape[2],
        "size_y": geometry.shape[1],
        "size_z": geometry.shape[0],
        "pixel_size_a": pixel_size_a,
    }


def _alignment_file(parameters: Parameters) -> Path:
    if parameters.alignment is not None:
        return parameters.alignment
    stack = parameters.stack_file
    name = bare_name(stack)
    beside = [stack.with_name(f"{name}{end}") for end in (".aln", ".xf")]
    found = next((path for path in beside if path.is_file()), None)
    if found is None:
        raise ConfigError(
            f"{stack}: no alignment was found, {beside[0].name} or {beside[1].name} "
            "was expected beside it; align the series, or give it by --alignment"
        )
    return found


def _check(parameters: Parameters, alignment: SeriesAlignment, movie: Movie) -> None:
    count, sections = movie.shape[0], [i.section for i in alignment.images]
    if len(sections) < _LEAST_TILTS:
        raise FormatError(
            f"{parameters.stack_file}: its alignment has {len(sections)} tilt(s), at "
            f"least {_LEAST_TILTS} were expected; align the whole series"
        )
    if max(sections) >= count:
        raise FormatError(
            f"{parameters.stack_file}: found {counted(count, 'image')}, its alignment "
            f"has image {max(sections)}; give the alignment of this stack"
        )


def geometry_of(
    size: TomogramSize, alignment: SeriesAlignment, shape: tuple[int, int, int]
) -> "Geometry":
    """The volume and its images, in binned pixels."""
    from em_platform.cryoem.methods.backprojection import Geometry
    from em_platform.cryoem.methods.tilt_images import aligned_shape

    images, factor = alignment.images, size.binning
    axis = float(np.median([image.rotation_deg for image in images]))
    angles = np.array([image.angle_deg for image in images])
    return Geometry(
        shape=(
            max(1, size.height_px // factor),
            *aligned_shape((shape[1] // factor, shape[2] // factor), axis),
        ),
        tilts_rad=np.deg2rad(np.clip(angles, -_STEEPEST_DEG, _STEEPEST_DEG)),
        axis_deg=axis,
        shifts_px=np.array([(i.dx_px, i.dy_px) for i in images]) / factor,
    )


def _write_lines(
    path: Path,
    parameters: Parameters,
    alignment: SeriesAlignment,
    movie: Movie,
    geometry: "Geometry",
) -> None:
    """The filtered lines of all images, row by row of the volume, in a scratch file."""
    import dask

    from em_platform.cryoem.methods.backprojection import angular_weights

    shape = geometry.shape[1], geometry.row_px
    np.memmap(path, np.float32, "w+", shape=shape).flush()
    weights = angular_weights(geometry.tilts_rad)
    if parameters.flip_int:
        weights = -weights
    total = len(alignment.images)
    for first in range(0, total, _IMAGES_AT_A_TIME):
        tasks = [
            dask.delayed(_lines_of_one)(  # type: ignore[attr-defined]
                path, parameters, movie, geometry, alignment.images[i].section, i,
                weight=float(weights[i]),
            )
            for i in range(first, min(first + _IMAGES_AT_A_TIME, total))
        ]  # fmt: skip
        dask.compute(*tasks)  # type: ignore[attr-defined, no-untyped-call]
        report_progress("filter", min(first + _IMAGES_AT_A_TIME, total), total)


def _lines_of_one(
    path: Path,
    parameters: Parameters,
    movie: Movie,
    geometry: "Geometry",
    section: int,
    index: int,
    *,
    weight: float,
) -> None:
    from em_platform.cryoem.methods.backprojection import lines_of
    from em_platform.cryoem.methods.tilt_images import binned

    image = np.asarray(movie.frame(section), np.float32)
    if not np.isfinite(image).all():
        raise FormatError(
            f"{parameters.stack_file}: image {section} has pixels that are no numbers "
            "(NaN or infinite), grey levels were expected; leave it out of the "
            "alignment"
        )
    image -= image.mean(dtype=np.float64)
    lines = lines_of(
        binned(image, parameters.out_bin or 1),
        geometry,
        index,
        weight=weight,
        cutoff=parameters.cutoff,
        falloff=parameters.falloff,
    )
    rows = _rows(path, geometry, "r+")
    start = int(geometry.starts[index])
    rows[:, start : start + lines.shape[1]] = lines


def _rows(path: Path, geometry: "Geometry", mode: Any) -> "np.memmap[Any, Any]":
    shape = geometry.shape[1], geometry.row_px
    return np.memmap(path, np.float32, mode, shape=shape)


def _write_slabs(path: Path, lines: Path, geometry: "Geometry") -> list[PartMark]:
    """Fill the volume slab by slab, on this computer's cores or those of a cluster."""
    import dask

    make_room(path, geometry.shape)
    deep, height, width = geometry.shape
    rows = max(1, min(height, _SLAB_BYTES // (4 * deep * width)))
    starts = range(0, height, rows)
    slab = partial(_slab, path, lines, geometry, rows)
    marks: list[PartMark] = []
    # In groups: progress is seen, and the order of the marks is that of the rows.
    for first in range(0, len(starts), _SLABS_AT_A_TIME):
        group = starts[first : first + _SLABS_AT_A_TIME]
        tasks = [dask.delayed(slab)(y) for y in group]  # type: ignore[attr-defined]
        marks += dask.compute(*tasks)  # type: ignore[attr-defined, no-untyped-call]
        report_progress("back-project", group[-1] + rows, height)
    return marks


def _slab(
    path: Path, lines: Path, geometry: "Geometry", rows: int, first: int
) -> PartMark:
    from em_platform.cryoem.methods.backprojection import add_lines

    deep, height, width = geometry.shape
    last = min(first + rows, height)
    slab = np.empty((deep, last - first, width), np.float32)
    part = np.asarray(_rows(lines, geometry, "r")[first:last])
    add_lines(part, geometry.starts, np.tan(geometry.tilts_rad), slab)
    return write_slab(path, geometry.shape, first, slab)


def _write_zarr(tomogram: Path, target: Path) -> None:
    from em_platform.config import OutputSettings
    from em_platform.ome_zarr import convert

    convert(str(tomogram), str(target), settings=OutputSettings())
