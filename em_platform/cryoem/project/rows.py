"""The rows that each type of job has in its tables.

Columns: those of cryoem-services' projects, which are RELION's
(`spa_output_files.py`, `tomo_output_files.py` there).
"""

from collections.abc import Callable
from glob import escape
from pathlib import Path

from em_platform.cryoem.exposure import tilts_before
from em_platform.cryoem.programs.ctffind import fits_of_table
from em_platform.cryoem.project.jobs import JobType, check_inside
from em_platform.cryoem.project.report import JobReport
from em_platform.cryoem.project.tables import (
    Row,
    microscope,
    optics_row,
    plain_numbers,
    put_particles,
    put_rows,
    rows_of,
    stack_of,
)
from em_platform.cryoem.stage import RelionOptions, checked_name
from em_platform.cryoem.tilt_name import TiltName, series_of, tilt_name
from em_platform.errors import NoAnswer, RecordError
from em_platform.storage.atomic import write_bytes

_DEFOCUS = ("defocus_u", "defocus_v", "astigmatism_angle", "cc_value", "resolution")
# Of an optics group that the tables of tilt series name.
_TILT_OPTICS = "optics1"


@plain_numbers()
def write_rows(report: JobReport, kind: JobType, project: Path, job: Path) -> None:
    """Put the row of a report into its tables.

    Raises
    ------
    RecordError
        A result is missing.
    """
    if report.experiment_type == "tomography":
        _write_tilt(report, kind, project, job)
    elif kind.folder in _SPA:
        # Selections and classes have their tables already.
        _SPA[kind.folder](report, project, job)


def _inside(path: str, project: Path) -> str:
    """A path as RELION writes it: relative to the project where it lies in it."""
    each = Path(path)
    return str(each.relative_to(project) if each.is_relative_to(project) else each)


def _needed(report: JobReport, name: str) -> float:
    try:
        return float(report.results[name])
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"project: {report.job_type} of {report.output_file} has no {name} among "
            "its results, one was expected; send it with the message"
        ) from error


def _import(report: JobReport, project: Path, job: Path) -> None:
    row: Row = {
        "MicrographMovieName": _inside(report.output_file, project),
        "OpticsGroup": 1,
    }
    optics = optics_row(report.relion_options)
    put_rows(job / "movies.star", "movies", [row], optics=optics)


def _motion(report: JobReport) -> Row:
    return {
        f"AccumMotion{part}": _needed(report, f"{part.lower()}_motion")
        for part in ("Total", "Early", "Late")
    }


def _motioncorr(report: JobReport, project: Path, job: Path) -> None:
    name = _inside(report.output_file, project)
    row: Row = {
        "MicrographName": name,
        "MicrographMetadata": str(Path(name).with_suffix(".star")),
        "OpticsGroup": 1,
        **_motion(report),
    }
    optics = optics_row(report.relion_options)
    put_rows(job / "corrected_micrographs.star", "micrographs", [row], optics=optics)


def _fit(report: JobReport, path: Path) -> Row:
    """Defocus and its quality: from the message, else from CTFFIND's table."""
    known = report.results
    if not all(name in known for name in _DEFOCUS):
        fit = fits_of_table(path.with_suffix(".txt"))[-1]
        known = {
            "defocus_u": fit.defocus_u,
            "defocus_v": fit.defocus_v,
            "astigmatism_angle": fit.azimuth,
            "cc_value": fit.score,
            "resolution": fit.resolution,
            **known,
        }
    u, v, angle, score, resolution = (float(known[name]) for name in _DEFOCUS)
    return {
        "DefocusU": u,
        "DefocusV": v,
        "CtfAstigmatism": abs(u - v),
        "DefocusAngle": angle,
        "CtfFigureOfMerit": score,
        "CtfMaxResolution": resolution,
        "CtfIceRingDensity": float(known.get("ice_ring_density") or 0.0),
    }


def _spectrum(report: JobReport, project: Path) -> str:
    """CTFFIND's own name of the image, unless the message says another."""
    named = report.results.get("ctf_image")
    usual = Path(report.output_file).with_suffix(".ctf")
    # RELION reads an image by the name of its format, whatever the file's name ends in.
    return f"{_inside(str(named or usual), project)}:mrc"


def _ctffind(report: JobReport, project: Path, job: Path) -> None:
    row: Row = {
        "MicrographName": _inside(report.input_file, project),
        "OpticsGroup": 1,
        "CtfImage": _spectrum(report, project),
        **_fit(report, Path(report.output_file)),
    }
    optics = optics_row(report.relion_options)
    put_rows(job / "micrographs_ctf.star", "micrographs", [row], optics=optics)


def _autopick(report: JobReport, project: Path, job: Path) -> None:
    micrograph = _inside(report.input_file, project)
    row: Row = {
        "MicrographName": micrograph,
        "MicrographCoordinates": _inside(report.output_file, project),
    }
    put_rows(job / "autopick.star", "coordinate_files", [row])
    # RELION 3.1 finds the picks by this file: the table that lists the micrographs.
    taken = Path(micrograph).parts[:2]
    suffix = f"{'/'.join(taken)}/micrographs_ctf.star\n"
    write_bytes(job / "coords_suffix_autopick.star", suffix.encode())


def _extract(report: JobReport, project: Path, job: Path) -> None:
    path = Path(report.output_file)
    if path == job / "particles.star":
        return  # extracted again, by RELION itself
    box = int(report.results.get("box_size") or report.relion_options["small_boxsize"])
    optics = optics_row(report.relion_options, particles=box)
    rows = particle_rows(path, project)
    stacks = {stack_of(row["ImageName"]) for row in rows}
    put_particles(job / "particles.star", rows, stacks=stacks, optics=optics)


def particle_rows(path: Path, project: Path) -> list[Row]:
    """The particles of an extracted micrograph, by names within the project."""
    folder = _inside(str(path.parent), project)
    keyed: list[Row] = []
    for row in rows_of(path, "particles"):
        number, _, stack = str(row.pop("ImageName")).partition("@")
        # Names of stacks are relative to their table there, to the project here.
        name = stack if stack.startswith((folder, "/")) else f"{folder}/{stack}"
        keyed.append({"ImageName": f"{number}@{name}", **row})
    return keyed


def write_extracted(
    path: Path,
    out: Path,
    *,
    micrograph: Path,
    project: Path,
    options: RelionOptions,
) -> None:
    """Write the particles of a micrograph to `out`, by names within the project.

    Raises
    ------
    FormatError
        What is there, or `path`, is no table of particles.
    """
    name = _inside(str(micrograph), project)
    rows = [row | {"MicrographName": name} for row in particle_rows(path, project)]
    optics = optics_row(options, particles=int(options["small_boxsize"]))
    stacks = {stack_of(row["ImageName"]) for row in rows}
    put_particles(out, rows, stacks=stacks, optics=optics)


_SPA: dict[str, Callable[[JobReport, Path, Path], None]] = {
    "Import": _import,
    "MotionCorr": _motioncorr,
    "CtfFind": _ctffind,
    "AutoPick": _autopick,
    "Extract": _extract,
}


def _global_row(report: JobReport, series: str, star: str) -> Row:
    options = report.relion_options
    pixel = float(options.get("pixel_size") or 1.0)
    return {
        "TomoName": series,
        "TomoTiltSeriesStarFile": star,
        **microscope(options),
        "MicrographOriginalPixelSize": pixel,
        "TomoHand": int(options.get("invert_hand") or -1),
        "OpticsGroupName": _TILT_OPTICS,
        "TomoTiltSeriesPixelSize": pixel,
    }


def _write_tilt(report: JobReport, kind: JobType, project: Path, job: Path) -> None:
    listed = kind.outputs("tomography")[0].star
    if kind.folder in ("Tomograms", "Denoise"):
        row = _tomogram_row(report, project)
        put_rows(job / listed, "global", [row])
        return
    name = _tilt_of(report)
    series = _name(name.series if name else series_of(Path(report.output_file)))
    check_inside(job / "tilt_series", project)
    star = f"tilt_series/{series}.star"
    row = _global_row(report, series, f"{job.relative_to(project)}/{star}")
    put_rows(job / listed, "global", [row])
    put_rows(job / star, series, [_tilt_row(report, kind, project, series)])


def _name(series: str) -> str:
    """The name of a series, by which its table is called and found."""
    try:
        return checked_name(series)
    except ValueError as error:
        raise RecordError(
            f"project: the tilt series {error}; name it otherwise"
        ) from error


def _tilt_of(report: JobReport) -> TiltName | None:
    """Series and angle of a tilt: those reported, else what its name says."""
    options = report.relion_options
    if options.get("tilt_series") and options.get("tilt_angle") is not None:
        angle_deg = float(options["tilt_angle"])
        return TiltName(
            series=str(options["tilt_series"]), number=None, angle_deg=angle_deg
        )
    return tilt_name(Path(report.output_file))


def _tilt_row(report: JobReport, kind: JobType, project: Path, series: str) -> Row:
    """The row of one tilt; its image or movie names it."""
    name = _tilt_of(report)
    options = report.relion_options
    taken = _inside(report.input_file, project)
    made = _inside(report.output_file, project)
    rest: Row = {
        "TomoTiltMovieFrameCount": int(options.get("frame_count") or 1),
        "TomoNominalStageTiltAngle": name.angle_deg if name else 0.0,
        "TomoNominalTiltAxisAngle": _option(options, "tilt_axis_angle", 85.0),
        "MicrographPreExposure": _dose_before(report),
        "TomoNominalDefocus": _option(options, "defocus", -4.0),
    }
    if kind.folder == "Import":
        return {"MicrographMovieName": made, **rest}
    if kind.folder == "MotionCorr":
        return {
            "MicrographMovieName": taken,
            **rest,
            "MicrographName": made,
            "MicrographMetadata": str(Path(made).with_suffix(".star")),
            **_motion(report),
        }
    if kind.folder == "CtfFind":
        fit = _fit(report, Path(report.output_file))
        spectrum = _spectrum(report, project)
        return {"MicrographName": taken, **rest, "CtfImage": spectrum, **fit}
    return {
        "MicrographName": taken,
        **rest,
        **_known_fit(project, series, taken),
        **{
            column: _needed(report, column)
            for column in _ALIGNED
            if kind.folder == "AlignTiltSeries"
        },
    }


_ALIGNED = ("TomoXTilt", "TomoYTilt", "TomoZRot", "TomoXShiftAngst", "TomoYShiftAngst")


def _option(options: RelionOptions, name: str, default: float) -> float:
    # 0 is an angle, too.
    return default if options.get(name) is None else float(options[name])


def _dose_before(report: JobReport) -> float:
    """Electrons per Å² before a tilt: what its motion correction counted with.

    Upstream's services do not say it; then it is that of the tilts before.
    """
    options = report.relion_options
    if options.get("pre_exposure") is not None:
        return float(options["pre_exposure"])
    dose = float(options.get("dose_per_frame") or 0.0)
    path = Path(report.input_file)
    # A job's own link to a movie leads to where all of its series lie.
    before = tilts_before(path.readlink() if path.is_symlink() else path) or 0
    return before * int(options.get("frame_count") or 1) * dose


def _known_fit(project: Path, series: str, micrograph: str) -> Row:
    """What the project's CTF job has written of a tilt; nothing of a series without.

    Raises
    ------
    NoAnswer
        Only of others of its series yet (retryable): its report may be on its way.
    """
    columns = ("MicrographPreExposure", "DefocusU", "DefocusV", "DefocusAngle")
    fitted = sorted(project.glob(f"CtfFind/job*/tilt_series/{escape(series)}.star"))
    if not fitted:
        return {}
    for path in fitted:
        for row in rows_of(path, series):
            if row["MicrographName"] == micrograph:
                return {column: row[column] for column in columns}
    raise NoAnswer(
        f"project: no CTF of {micrograph} is known in {project} yet, a row of CtfFind "
        "was expected; the message is tried again"
    )


def _tomogram_row(report: JobReport, project: Path) -> Row:
    options = report.relion_options
    series = _series_of_volume(report, project)
    pixel = float(options.get("pixel_size") or 1.0)
    scaled = float(options.get("pixel_size_downscaled") or pixel)
    row = _global_row(
        report, series, f"AlignTiltSeries/job005/tilt_series/{series}.star"
    )
    made = _inside(report.output_file, project)
    is_denoised = report.job_type == "relion.denoisetomo"
    taken = _inside(report.input_file, project) if is_denoised else made
    row |= {
        "TomoTomogramBinning": scaled / pixel,
        "TomoSizeX": int(options.get("tomo_size_x") or 4096),
        "TomoSizeY": int(options.get("tomo_size_y") or 4096),
        "TomoSizeZ": int(options.get("vol_z") or 1200),
        "TomoReconstructedTomogram": taken,
    }
    return row | ({"TomoReconstructedTomogramDenoised": made} if is_denoised else {})


def _series_of_volume(report: JobReport, project: Path) -> str:
    """The series that the report names, or that the project has the volume of."""
    if named := report.results.get("tilt_series"):
        return _name(str(named))
    taken = _inside(report.input_file, project)
    for path in sorted(project.glob("Tomograms/job*/tomograms.star")):
        for row in rows_of(path, "global"):
            if row["TomoReconstructedTomogram"] == taken:
                return str(row["TomoName"])
    return _name(series_of(Path(report.output_file)))
