"""A movie's motion corrected and its frames summed: global, by patches, by dose.

Field names and defaults are those of cryoem-services' MotionCorr; the files are those
of RELION's own motion correction, with even and odd sums for denoising.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, field_validator, model_validator

from em_platform.cryoem.movies import Movie, open_movie, read_grouping
from em_platform.cryoem.optics import Optics
from em_platform.cryoem.programs.motion import B_FACTOR
from em_platform.cryoem.stage import (
    ENGINE,
    Name,
    Option,
    RelionOptions,
    Rule,
    StageResult,
    TimeLimit,
    report_progress,
)
from em_platform.errors import ConfigError, FormatError, ProcessingError

if TYPE_CHECKING:
    from em_platform.cryoem.methods.motion import Motion, Sums
    from em_platform.cryoem.methods.motion_frames import Corrections


class Parameters(Optics):
    """Parameters of motion correction; lengths in Å, doses in electrons per Å²."""

    movie: Annotated[Path, Option("INPUT", "a movie: MRC, TIFF or EER")]
    mrc_out: Path | None = None
    """Only its name counts here: files lie in the stage's folder."""
    pixel_size: Annotated[
        float, Option("--pixel-size-a", "Å per pixel of the movie", "pixel_size_a")
    ] = Field(gt=0, validation_alias=AliasChoices("pixel_size", "pix_size"))
    dose_per_frame: Annotated[
        float,
        Option(
            "--dose-per-frame",
            "electrons per Å² and frame; 0: frames are not weighted",
            "dose_per_frame",
        ),
    ] = Field(0.0, ge=0, validation_alias=AliasChoices("dose_per_frame", "fm_dose"))
    init_dose: Annotated[
        float | None, Option("--pre-exposure", "e/Å² before the movie", "pre_exposure")
    ] = None
    gain_ref: Annotated[
        Path | None, Option("--gain", "gain reference: MRC, TIFF or EER's .gain")
    ] = None
    rot_gain: Annotated[
        int | None, Option("--rot-gain", "turn the gain by 90 degrees so many times")
    ] = Field(None, ge=0, le=3)
    flip_gain: Annotated[
        int | None, Option("--flip-gain", "1: upside down, 2: left to right")
    ] = Field(None, ge=0, le=2)
    dark: Annotated[Path | None, Option("--dark", "dark reference")] = None
    defect_file: Annotated[
        Path | None, Option("--defects", "text with x y w h a line, or a mask")
    ] = None
    patch_sizes: Annotated[
        tuple[int, int],
        Option("--patches", "patches along x and y; '1 1': global only"),
    ] = Field((5, 5), validation_alias=AliasChoices("patch_sizes", "patch_size"))
    motion_corr_binning: Annotated[
        float | None, Option("--bin", "bin the sums by so much")
    ] = Field(
        None,
        ge=1,
        le=16,
        validation_alias=AliasChoices("motion_corr_binning", "ft_bin"),
    )
    throw: Annotated[
        int | None, Option("--throw", "frames left out at the beginning")
    ] = Field(None, ge=0)
    trunc: Annotated[int | None, Option("--trunc", "frames left out at the end")] = (
        Field(None, ge=0)
    )
    b_factor: Annotated[
        float, Option("--b-factor", "of the correlation, in pixels squared")
    ] = Field(B_FACTOR, gt=0)
    eer_sampling: Annotated[
        Literal[1, 2, 4] | None, Option("--eer-upsampling", "1, 2 or 4")
    ] = None
    eer_grouping: Annotated[
        int, Option("--eer-grouping", "EER frames that are summed to one")
    ] = Field(20, ge=1)
    threads: Annotated[int, Option("--threads", "of this process")] = Field(
        1, ge=1, le=256
    )
    dose_motionstats_cutoff: Annotated[
        float, Option("--early-dose", "electrons per Å² that count as early motion")
    ] = 4.0
    engine: Annotated[Literal["builtin", "relion", "motioncor2"], ENGINE] = "builtin"
    time_limit_s: TimeLimit = 3600.0
    # From here on by messages; what changes the images is refused by the built-in.
    fm_int_file: Path | None = None
    mag: dict[str, int | float] | None = None
    sum_range: dict[str, int | float] | None = None
    group: int | None = None
    in_fm_motion: int | None = None
    experiment_type: Literal["spa", "tomography"] = "spa"
    use_motioncor2: bool = False
    submit_to_slurm: bool = False
    gpu: int = 0
    fm_ref: int = 0
    iter: int | None = None
    tol: float | None = None
    use_gpus: int | None = None
    serial: int | None = None
    in_suffix: Name | None = None
    out_stack: int | None = None
    bft: dict[str, int | float] | None = None
    arc_dir: Annotated[Path | None, Rule.SETTINGS] = None
    frame_count: int | None = None
    split_sum: int | None = None
    app_id: int | None = None
    mc_uuid: int | None = None
    picker_uuid: int | None = None
    do_icebreaker_jobs: bool = True
    slurm_memory: int = 20000
    ctf: RelionOptions = Field(default_factory=dict)
    relion_options: RelionOptions = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_the_engine(cls, values: Any) -> Any:
        """A message's own word for it wins over the settings."""
        if isinstance(values, dict) and values.get("use_motioncor2") in (True, "True"):
            return {**values, "engine": "motioncor2"}
        return values

    @field_validator("patch_sizes", mode="before")
    @classmethod
    def _read_patches(cls, value: object) -> object:
        """`{"x": 5, "y": 5}` of messages, `5 5` of the command line, or one number."""
        if isinstance(value, dict):
            return value.get("x"), value.get("y")
        found = value.replace(",", " ").split() if isinstance(value, str) else value
        if isinstance(found, int) or (isinstance(found, list) and len(found) == 1):
            one = found if isinstance(found, int) else found[0]
            return one, one
        return found

    @field_validator("gain_ref", "dark", "defect_file", "fm_int_file", mode="before")
    @classmethod
    def _read_no_path(cls, value: object) -> object:
        return None if value == "" else value  # upstream's word for none

    def early_frames(self, frames: int) -> int:
        """How many of the frames count as early motion."""
        if self.dose_per_frame <= 0:
            return frames  # without a dose nobody knows what is late
        return round(self.dose_motionstats_cutoff / self.dose_per_frame)

    @property
    def frames_per_group(self) -> int:
        """EER frames that become one; FormatError where that file cannot be read."""
        if self.fm_int_file and self.movie.suffix.lower() == ".eer":
            return read_grouping(self.fm_int_file)
        return self.eer_grouping


class Result(StageResult):
    """What was found; shifts are RELION's: what a frame is moved by, from the first."""

    micrograph: str  # weighted by dose where one was given
    plain: str
    even: str
    odd: str
    star: str
    drift_plot: str
    picture: str
    pixel_size_a: float  # of the sums
    frames: int
    first_frame: int  # counted from 1
    last_frame: int
    dose_per_frame: float
    init_dose: float = 0.0  # before the movie
    shift_x_px: tuple[float, ...]
    shift_y_px: tuple[float, ...]
    total_motion_a: float
    early_motion_a: float
    late_motion_a: float
    average_motion_a: float  # per frame
    is_local: bool
    local_motion_px: float  # root mean square; 0 where there is none
    local_reason: str  # why there is no local motion
    is_aligned: bool = True  # False: nothing stands out of the noise, none was moved
    patches_x: int
    patches_y: int
    defects: int


def run(parameters: Parameters, folder: Path) -> Result:
    """Write the sums, STAR file and drift plot of a movie.

    Raises
    ------
    FormatError
        The movie, its gain or defects cannot be read, or do not fit each other.
    ProcessingError
        There is nothing in the frames that could be aligned.
    ConfigError
        A parameter that only MotionCor2 knows was given.
    ToolMissing, ToolFailed
        The program on PATH is not there, or did not do it.
    """
    if parameters.engine != "builtin":
        from em_platform.cryoem.programs.engine import run_engine

        return Result(**run_engine("motion", parameters, folder))
    # numba and scipy are loaded by who runs it, not by who asks for the options.
    from em_platform.cryoem.methods import motion

    for name in ("mag", "sum_range", "group", "in_fm_motion"):
        if getattr(parameters, name) is not None:
            raise ConfigError(
                f"motion: {name} was given, which only MotionCor2 knows; leave it out, "
                "or use MotionCor2"
            )
    movie = open_movie(
        parameters.movie,
        eer_grouping=parameters.frames_per_group,
        eer_upsampling=parameters.eer_sampling or 1,
    )
    frames, first = _used_frames(parameters, movie)
    shape = (movie.shape[1], movie.shape[2])
    read, defects = _corrected(parameters, movie, frames, first)
    found = motion.measure_motion(
        read,
        frames,
        shape,
        patches=(parameters.patch_sizes[1], parameters.patch_sizes[0]),
        b_factor=parameters.b_factor,
        threads=parameters.threads,
    )
    sums = motion.sum_frames(
        read,
        frames,
        shape,
        found,
        pixel_size_a=parameters.pixel_size,
        voltage_kv=parameters.voltage,
        dose_per_frame=parameters.dose_per_frame,
        # Frames that are left out have been exposed, too.
        dose_before=(parameters.init_dose or 0) + first * parameters.dose_per_frame,
        binning=parameters.motion_corr_binning or 1,
        threads=parameters.threads,
    )
    files = _write(parameters, folder, found, sums, first=first)
    return _result(parameters, files, found, first=first, defects=defects)


def _corrected(
    parameters: Parameters, movie: Movie, frames: int, first: int
) -> tuple[Callable[[int], NDArray[np.float32]], int]:
    """What reads a frame without gain and defects, and how many defects there are."""
    from em_platform.cryoem.methods import motion_frames
    from em_platform.cryoem.references import load_corrections

    given = load_corrections(
        (movie.shape[1], movie.shape[2]),
        gain=parameters.gain_ref,
        rotated=parameters.rot_gain or 0,
        flipped=parameters.flip_gain or 0,
        dark=parameters.dark,
        defects=parameters.defect_file,
    )

    def read(index: int, corrections: "Corrections" = given) -> NDArray[np.float32]:
        return motion_frames.correct(movie.frame(first + index), corrections)

    report_progress("defects", 0, 1)
    defects, total = motion_frames.find_defects(frames, read)
    _check_contrast(parameters.movie, total)
    if given.defects is not None:
        defects = np.union1d(defects, given.defects)
    whole = replace(given, defects=defects)
    return lambda index: read(index, whole), len(defects)


def _used_frames(parameters: Parameters, movie: Movie) -> tuple[int, int]:
    """How many frames are used, and the first of them."""
    first = parameters.throw or 0
    frames = movie.shape[0] - first - (parameters.trunc or 0)
    if frames < 1:
        raise FormatError(
            f"{parameters.movie}: found {movie.shape[0]} frames, more were expected "
            "than are left out; leave out fewer"
        )
    return frames, first


def _check_contrast(path: Path, total: NDArray[np.float64]) -> None:
    # One sum over all pixels finds any NaN among them.
    if not np.isfinite(total.sum()):
        raise FormatError(
            f"{path}: found frames with values that are not finite (NaN or infinite), "
            "expected counts; copy it again, or correct the gain"
        )
    if total.std() <= 1e-6 * abs(total.mean()) or not total.any():
        raise ProcessingError(
            f"{path}: all pixels of its sum are {total.flat[0]:g}, expected an image; "
            "look whether the beam was on"
        )


def _write(
    parameters: Parameters,
    folder: Path,
    found: "Motion",
    sums: "Sums",
    *,
    first: int,
) -> dict[str, str]:
    """Write all files; their names by the fields of the result."""
    from em_platform.cryoem import motion_files
    from em_platform.cryoem.image_files import write_mrc

    stem = (parameters.mrc_out or parameters.movie).name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    binning = parameters.motion_corr_binning or 1
    names = {
        "micrograph": f"{stem}.mrc",
        "plain": f"{stem}_noDW.mrc",
        "even": f"{stem}_EVN.mrc",
        "odd": f"{stem}_ODD.mrc",
    }
    images = (sums.weighted, sums.plain, sums.even, sums.odd)
    for name, image in zip(names.values(), images, strict=True):
        write_mrc(folder / name, image, pixel_size_a=parameters.pixel_size * binning)
    motion_files.write_motion_star(
        folder / f"{stem}.star",
        found,
        frame_shape=sums.shape,
        first_frame=first + 1,
        movie=parameters.movie,
        gain=parameters.gain_ref,
        general={
            "rlnMicrographBinning": binning,
            "rlnMicrographOriginalPixelSize": parameters.pixel_size,
            "rlnMicrographDoseRate": parameters.dose_per_frame,
            "rlnMicrographPreExposure": parameters.init_dose or 0.0,
            "rlnVoltage": parameters.voltage,
        },
    )
    plot, picture = f"{stem}_drift_plot.json", f"{stem}_drift.png"
    motion_files.write_drift_plot(folder / plot, -found.global_px)
    motion_files.write_drift_picture(folder / picture, found, shape=sums.shape)
    more = {"star": f"{stem}.star", "drift_plot": plot, "picture": picture}
    return names | more


def _result(
    parameters: Parameters,
    files: dict[str, str],
    found: "Motion",
    *,
    first: int,
    defects: int,
) -> Result:
    from em_platform.cryoem.motion_files import motion_statistics

    # RELION's sign: what a frame is moved by, not how far it has moved.
    shifts = 0.0 - found.global_px
    return Result(
        **files,
        **motion_statistics(
            shifts * parameters.pixel_size,
            early_frames=parameters.early_frames(len(shifts)),
        ),
        pixel_size_a=parameters.pixel_size * (parameters.motion_corr_binning or 1),
        frames=len(shifts),
        first_frame=first + 1,
        last_frame=first + len(shifts),
        dose_per_frame=parameters.dose_per_frame,
        init_dose=parameters.init_dose or 0.0,
        shift_x_px=tuple(round(float(x), 4) for x in shifts[:, 1]),
        shift_y_px=tuple(round(float(y), 4) for y in shifts[:, 0]),
        is_local=found.local is not None,
        local_motion_px=round(found.local.signal_px, 4) if found.local else 0.0,
        local_reason=found.reason,
        is_aligned=found.is_aligned,
        patches_x=parameters.patch_sizes[0],
        patches_y=parameters.patch_sizes[1],
        defects=defects,
    )
