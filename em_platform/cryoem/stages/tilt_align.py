"""A tilt series aligned: shifts, tilt axis, tilt and thickness of the specimen.

Parameters have the names and defaults of cryoem-services' AreTomo service; the files
are those that IMOD, AreTomo, RELION and Warp read.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, field_validator, model_validator

from em_platform.cryoem.stage import (
    ENGINE,
    Option,
    RelionOptions,
    Rule,
    StageParameters,
    Text,
    TimeLimit,
    named_engine,
    report_progress,
)
from em_platform.cryoem.tilt_files import (
    AlignedSeries,
    AlignedTilt,
    LeftOut,
    file_names,
    half_stacks,
    left_out,
    stack_of,
    write_files,
)
from em_platform.errors import ConfigError, FormatError, ProcessingError

if TYPE_CHECKING:
    from em_platform.cryoem.methods.tilt_pose import Alignment
    from em_platform.cryoem.tilt_series import Images, TiltSeries

_LEAST_TILTS = 3
# Fewer than these of the neighbours' electrons reach the camera: a grid bar, no beam.
_NEIGHBOURS = 5
# Pixel sizes of 2023's recipes were in metres.
_METRES = 1e-6


class Parameters(StageParameters):
    """Parameters of alignment and reconstruction, as messages have them."""

    stack_file: Annotated[
        Path,
        Option("INPUT", "a stack, its mdoc, or a folder with an mdoc for each image"),
    ]
    pixel_size: Annotated[
        float | None, Option("--pixel-size-a", "Å per pixel", "pixel_size_a")
    ] = Field(None, gt=0, validation_alias=AliasChoices("pixel_size", "pix_size"))
    tilts: Annotated[
        Path | None, Option("--tilts", "angles: .tlt, .rawtlt or mdoc")
    ] = None
    tilt_axis: Annotated[
        float,
        Option("--axis-deg", "tilt axis from the image's y axis, as IMOD", "axis_deg"),
    ] = 85.0
    axis_search: Annotated[
        float, Option("--axis-search-deg", "seek the axis so far on each side")
    ] = Field(12.0, ge=0, le=90)
    tilt_cor: Annotated[
        Literal[-1, 0, 1],
        Option("--tilt-cor", "tilt of the specimen: -1 not sought, 0 measured, 1 used"),
    ] = 1
    manual_tilt_offset: Annotated[
        float | None, Option("--tilt-offset-deg", "tilt of the specimen, where known")
    ] = None
    dark_tol: Annotated[
        float | None,
        Option("--dark-tol", "leave out images darker than this share of neighbours"),
    ] = Field(None, ge=0, le=1)
    exclude: Annotated[
        tuple[int, ...], Option("--exclude", "leave out this section, from 1")
    ] = ()
    dose_per_frame: Annotated[
        float | None, Option("--dose-per-frame", "electrons per Å²", "dose_per_frame")
    ] = Field(None, ge=0, validation_alias=AliasChoices("dose_per_frame", "fm_dose"))
    frame_count: Annotated[
        int | None, Option("--frame-count", "frames in each image")
    ] = Field(None, ge=1)
    halves: Annotated[
        bool,
        Option("--halves", "of single images stack even and odd sums, X_EVN, X_ODD"),
    ] = False
    engine: Annotated[Literal["builtin", "aretomo2", "aretomo3", "imod"], ENGINE] = (
        "builtin"
    )
    time_limit_s: TimeLimit = 7200.0
    # From here on by messages; other programs take them.
    path_pattern: Annotated[str | None, Rule.PATTERN] = None
    input_file_list: tuple[tuple[Path, float], ...] | None = None
    txrm_file: Path | None = None
    aretomo_version: Literal[2, 3] = 3
    vol_z: int | None = None
    max_vol: int = 1800
    min_vol: int = 600
    extra_vol: int = 400
    out_bin: int = 4
    second_bin: int | None = None
    ctf_cor: int | None = None
    flip_int: int | None = None
    flip_vol: int = 0
    flip_vol_post_reconstruction: bool = True
    sart_iterations: int | None = None
    sart_projections: int | None = None
    wbp: int | None = None
    patch: int | None = None
    kv: float | None = Field(None, validation_alias=AliasChoices("kv", "voltage"))
    cs: float | None = Field(None, validation_alias=AliasChoices("cs", "spher_aber"))
    amplitude_contrast: float | None = Field(
        None, validation_alias=AliasChoices("amplitude_contrast", "ampl_contrast")
    )
    align_file: Path | None = None
    align_z: int | None = None
    refine_flag: int = 1
    out_imod: int = 1
    out_imod_xf: int | None = None
    interpolation_correction: int | None = None
    copy_output: bool = False
    visits_for_slurm: list[Text] | None = None
    relion_options: RelionOptions = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_the_version(cls, values: Any) -> Any:
        return named_engine(values, "aretomo", field="aretomo_version", latest=3)

    @field_validator("input_file_list", mode="before")
    @classmethod
    def _read_list(cls, value: Any) -> Any:
        from em_platform.cryoem.tilt_series import input_list

        return None if value is None else input_list(value)

    @field_validator("pixel_size", mode="after")
    @classmethod
    def _in_angstrom(cls, value: float | None) -> float | None:
        if value is None or value > _METRES:
            return value
        return round(value * 1e10, 6)


class Result(AlignedSeries):
    """The alignment of a series, and the files that say it."""


def run(parameters: Parameters, folder: Path) -> Result:
    """Write `NAME.xf`, `.tlt`, `.aln`, `_aligned.star`, `tilt.com` and the plot.

    Raises
    ------
    FormatError
        A file is not what it should be, an image is missing, or has NaN.
    ProcessingError
        Too few images have anything on them.
    ToolMissing, ToolFailed
        The program on PATH is not there, or did not do it.
    """
    series = series_of(parameters)
    pixel, halves = parameters.pixel_size, {}
    if parameters.halves:
        halves = half_stacks(series, folder, pixel_size=pixel)
    if parameters.engine != "builtin":
        from em_platform.cryoem.programs.engine import run_engine

        found = run_engine("tilt-align", parameters, folder, series=series)
        return Result(**dict(found) | halves)
    from em_platform.cryoem.methods.tilt_alignment import align
    from em_platform.cryoem.tilt_series import Images

    images = Images(series)
    kept, excluded = _usable(parameters, series, images)
    offset = parameters.manual_tilt_offset
    report_progress("align", 0, 1)
    alignment = align(
        lambda i: images(kept[i]),
        angles_deg=series.angles_deg[kept] + (offset or 0.0),
        axis_deg=parameters.tilt_axis,
        axis_reach_deg=parameters.axis_search,
        find_offset=parameters.tilt_cor >= 0 and offset is None,
        use_offset=parameters.tilt_cor == 1,
        note=lambda text: report_progress(text, 0, 1),
    )
    report_progress("align", 1, 1)
    stack = stack_of(series, images, folder, pixel_size=pixel)
    result = _result(parameters, series, alignment, kept, excluded, stack)
    result = result.model_copy(update=halves)
    shape = len(series.images), *images.shape
    write_files(folder, result, name=series.name, shape=shape)
    return result


def series_of(parameters: Parameters) -> "TiltSeries":
    """The images of a series by rising angle, as a list, mdoc or stack has them.

    Raises
    ------
    ConfigError
        The list cannot be read.
    FormatError
        An image or an angle is missing.
    """
    from em_platform.cryoem.tilt_series import find_series, listed_series, with_dose

    if parameters.txrm_file is not None:
        raise ConfigError(
            f"tilt-align: {parameters.txrm_file} is a Zeiss TXRM file, which the "
            "built-in alignment cannot read; convert it to MRC"
        )
    listed = _listed(parameters)
    if listed is not None:
        series = listed_series(listed, name=parameters.stack_file.stem)
    else:
        series = find_series(parameters.stack_file, tilts=parameters.tilts)
    if len(series.images) < _LEAST_TILTS:
        raise FormatError(
            f"{parameters.stack_file}: found {len(series.images)} tilt(s), at least "
            f"{_LEAST_TILTS} of different angles were expected; wait for the rest of "
            "the series"
        )
    sections = [series.section_of(i) for i in range(len(series.images))]
    known = {n + 1 for n in (*sections, *(r.section or 0 for r in series.replaced))}
    if unknown := sorted({*parameters.exclude} - known):
        raise ConfigError(
            f"{parameters.stack_file}: section {unknown[0]} was to be left out, found "
            f"{len(known)} from {min(known)} to {max(known)}; correct --exclude"
        )
    doses = parameters.dose_per_frame, parameters.frame_count
    dose = doses[0] * (doses[1] or 1) if doses[0] else None
    return with_dose(series, dose_per_tilt=dose)


def _listed(parameters: Parameters) -> list[tuple[str, float]] | None:
    if parameters.input_file_list is not None:
        return [(str(path), angle) for path, angle in parameters.input_file_list]
    if parameters.path_pattern is None:
        return None
    from em_platform.cryoem.halves import without_halves
    from em_platform.cryoem.headers import stated_angle

    # Of one folder, as upstream's: a folder's name may have brackets, too.
    pattern = Path(parameters.path_pattern)
    found = []
    for path in without_halves(sorted(pattern.parent.glob(pattern.name))):
        angle = stated_angle(path)
        if angle is None:
            raise FormatError(
                f"{path}: no tilt angle stands in its header, mdoc or name; give a "
                "list of files and angles"
            )
        found.append((str(path), angle))
    if not found:
        raise FormatError(
            f"tilt-align: no file is named {parameters.path_pattern}, the images of a "
            "series were expected; correct path_pattern"
        )
    return found


def _usable(
    parameters: Parameters, series: "TiltSeries", images: "Images"
) -> tuple[NDArray[np.intp], tuple[LeftOut, ...]]:
    """Which images count, by angle, and why the others do not."""
    count = len(series.images)
    means, spreads = np.empty(count), np.empty(count)
    reasons: dict[int, str] = {}
    for i, each in enumerate(series.images):
        number = i if each.section is None else each.section
        if number + 1 in parameters.exclude:
            reasons[i], means[i], spreads[i] = "excluded by the user", 0, 0
            continue
        image = images(i)
        means[i], spreads[i] = image.mean(dtype=np.float64), image.std(dtype=np.float64)
        report_progress("read images", i + 1, count)
        if spreads[i] <= 1e-6 * abs(means[i]) or spreads[i] == 0:
            reasons[i] = "blank: all its pixels are equal"
    tolerance = 0.7 if parameters.dark_tol is None else parameters.dark_tol
    for i in _dark(means, tolerance, left_out=set(reasons)):
        reasons[i] = f"dark: below {tolerance:g} of its neighbours"
    kept = np.array([i for i in range(count) if i not in reasons], np.intp)
    if len(kept) < _LEAST_TILTS:
        blank = sum(reason.startswith("blank") for reason in reasons.values())
        raise ProcessingError(
            f"{parameters.stack_file}: {len(kept)} of {count} images can be used "
            f"({blank} are blank), at least {_LEAST_TILTS} were expected; look at the "
            "series"
        )
    return kept, left_out(series, reasons)


def _dark(
    means: NDArray[np.float64], tolerance: float, *, left_out: set[int]
) -> list[int]:
    """Images much darker than the median of those near them in angle."""
    usable = [i for i in range(len(means)) if i not in left_out]
    if min(means[usable], default=0) < 0:
        return []  # no counts of electrons: images were normalised
    found = []
    for i in usable:
        near = sorted(usable, key=lambda j: abs(j - i))[1 : _NEIGHBOURS + 1]
        if means[i] < tolerance * float(np.median(means[near])):
            found.append(i)
    return found


def _result(
    parameters: Parameters,
    series: "TiltSeries",
    alignment: "Alignment",
    kept: NDArray[np.intp],
    excluded: tuple[LeftOut, ...],
    stack: str,
) -> Result:
    pose, measured = alignment.pose, alignment.offset
    pixel = parameters.pixel_size or series.pixel_size_a
    given = parameters.manual_tilt_offset
    offset = pose.offset_deg if given is None else given
    applied = 0.0 if parameters.tilt_cor == 0 else offset
    tilts = []
    for place, i in enumerate(kept):
        dx, dy = (round(float(each), 3) + 0.0 for each in pose.shifts_px[place])
        image = series.images[i]
        before = image.pre_exposure
        tilts.append(
            AlignedTilt(
                section=series.section_of(int(i)),
                angle_deg=round(image.angle_deg + applied, 4),
                dx_px=dx,
                dy_px=dy,
                rotation_deg=round(pose.axis_deg, 4),
                correlation=round(float(alignment.correlation[place]), 4),
                residual_px=_rounded(float(alignment.residual_px[place]), 3),
                pre_exposure=None if before is None else round(before, 4),
                x_shift_a=None if pixel is None else round(dx * pixel, 3),
                y_shift_a=None if pixel is None else round(dy * pixel, 3),
            )
        )
    thickness, error = alignment.thickness.value, alignment.thickness.error
    if error is None:
        thickness = None  # the likeliest one, but others are as likely
    residuals = alignment.residual_px[np.isfinite(alignment.residual_px)]
    residual = np.sqrt(np.mean(residuals**2)) if len(residuals) else np.nan
    return Result(
        stack=stack,
        tilts=tuple(tilts),
        excluded=excluded,
        specimen="rod" if alignment.is_rod else "film",
        rotation_deg=round(pose.axis_deg, 4),
        tilt_offset_deg=round(offset, 3),
        tilt_offset_error_deg=_rounded(measured.error, 2),
        tilt_offset=_about_offset(alignment, given),
        thickness_px=_rounded(thickness, 1),
        thickness_a=_rounded(thickness, 1, scale=pixel),
        thickness_error_a=_rounded(error, 1, scale=pixel),
        residual_px=_rounded(float(residual), 3),
        alignment_quality=round(float(np.mean(alignment.correlation)), 4),
        pixel_size_a=pixel,
        **file_names(series.name),
    )


def _rounded(
    value: float | None, digits: int, *, scale: float | None = 1.0
) -> float | None:
    """The value in other units; None where one of them is not known."""
    if value is None or scale is None or not np.isfinite(value):
        return None
    return round(value * scale, digits)


def _about_offset(alignment: "Alignment", given: float | None) -> str:
    """How the tilt of the specimen was found, or why 0 is used."""
    found = alignment.offset
    if given is not None:
        return "given"
    if found.value is None:
        return "not sought"
    if found.error is None:
        return "0: the series does not say"
    text = f"{found.value:.1f} +- {found.error:.1f} degrees"
    if alignment.pose.offset_deg:
        return f"measured, {text}"
    return f"0: {text} was found, which is not well above its error"
