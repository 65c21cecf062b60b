"""Motion correction of a movie by a program of others, with the result of our own."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from em_platform.cryoem import motion_files
from em_platform.cryoem.programs import motion
from em_platform.cryoem.programs.run import run_program
from em_platform.errors import ToolFailed

# RELION's MPI asks for a fabric that few machines have.
_ENVIRONMENT = {"FI_PROVIDER": "tcp"}
_SINGLE, _BATCH = "relion_motion_correction", "relion_run_motioncorr"


def correct_motion(
    fields: dict[str, Any], folder: Path, *, engine: str
) -> dict[str, Any]:
    """The fields of the stage's result; local motion stays the program's own affair.

    Parameters
    ----------
    engine
        `motioncor2`, or `relion`: `relion_motion_correction` where it is installed,
        else RELION's own `relion_run_motioncorr`.

    Raises
    ------
    ToolMissing
        The program is not installed.
    ToolFailed
        It failed, did not end in time, or wrote nothing.
    FormatError
        What it wrote says no shifts.
    """
    files, moved = _run(fields, folder, engine)
    shifts = np.array([(y, x) for x, y in moved], float)
    shifts -= shifts[0]
    dose, first = fields["dose_per_frame"], 1 + (fields["throw"] or 0)
    early = round(fields["dose_motionstats_cutoff"] / dose) if dose > 0 else len(shifts)
    plot = f"{Path(files['micrograph']).stem}_drift_plot.json"
    motion_files.write_drift_plot(folder / plot, shifts)
    pixel, (patches_x, patches_y) = fields["pixel_size"], fields["patch_sizes"]
    return {
        **files,
        **motion_files.motion_statistics(shifts * pixel, early_frames=early),
        "drift_plot": plot,
        "pixel_size_a": pixel * (fields["motion_corr_binning"] or 1),
        "frames": len(shifts),
        "first_frame": first,
        "last_frame": first + len(shifts) - 1,
        "dose_per_frame": dose,
        "init_dose": fields["init_dose"] or 0.0,
        "shift_x_px": tuple(round(float(x), 4) for x in shifts[:, 1]),
        "shift_y_px": tuple(round(float(y), 4) for y in shifts[:, 0]),
        "is_local": False,
        "local_motion_px": 0.0,
        "local_reason": f"{engine} does not report it",
        "patches_x": patches_x,
        "patches_y": patches_y,
        "defects": 0,
    }


def _run(
    fields: dict[str, Any], folder: Path, engine: str
) -> tuple[dict[str, str], motion.Shifts]:
    """Names of the files, and what each frame is moved by, in pixels."""
    movie = Path(fields["movie"]).absolute()
    stem = Path(fields["mrc_out"] or movie).name.removesuffix(".gz").rpartition(".")[0]
    image, log = folder / f"{stem}.mrc", folder / f"{stem}_motion.log"
    own = {**fields, "movie": str(movie), "mrc_out": str(image)}
    if engine == "motioncor2":
        ran = run_program(
            motion.motioncor2_command(own), log=log, time_limit_s=own["time_limit_s"]
        )
        return _files(image, log), motion.shifts_of_motioncor2(ran.output)
    if shutil.which(_SINGLE) is None and shutil.which(_BATCH) is not None:
        _run_batch(own, folder, image, log)
    else:
        run_program(
            motion.relion_command(own, eer_grouping=own["eer_grouping"]),
            log=log,
            makes=[image],
            time_limit_s=own["time_limit_s"],
            environment=_ENVIRONMENT,
        )
    return _files(image, log), motion.shifts_of_relion(image.with_suffix(".star"))


def _run_batch(
    own: dict[str, Any],
    folder: Path,
    image: Path,
    log: Path,
) -> None:
    """RELION's program for many movies takes a table and names outputs by the movie."""
    movie = Path(own["movie"])
    star = folder / "movies.star"
    voltage, pixel = own["voltage"], own["pixel_size"]
    star.write_text(
        "\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n"
        "_rlnOpticsGroup #2\n_rlnMicrographOriginalPixelSize #3\n_rlnVoltage #4\n"
        "_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n"
        f"opticsGroup1 1 {pixel} {voltage} 2.7 0.1\n\n"
        "\n# version 30001\n\ndata_movies\n\nloop_\n_rlnMicrographMovieName #1\n"
        f"_rlnOpticsGroup #2\n{movie.name} 1\n\n"
    )
    command = motion.relion_batch_command(
        own, star=star, folder=f"{folder}/", eer_grouping=own["eer_grouping"]
    )
    made = folder / f"{movie.stem}.mrc"
    run_program(
        command,
        log=log,
        makes=[made],
        # Movies are named from where it runs.
        folder=movie.parent,
        time_limit_s=own["time_limit_s"],
        environment=_ENVIRONMENT,
    )
    for suffix in (".mrc", ".star"):
        made.with_suffix(suffix).replace(image.with_suffix(suffix))


def _files(image: Path, log: Path) -> dict[str, str]:
    """Names by the fields of the result; what the program does not make has none."""
    folder, stem = image.parent, image.stem
    plain = f"{stem}_noDW.mrc"
    weighted = folder / f"{stem}_DW.mrc"  # MotionCor2's, where it weights
    if weighted.is_file():
        if image.is_file():
            image.replace(folder / plain)
        weighted.replace(image)
    if not image.is_file():
        raise ToolFailed(
            f"motion: the program ended well but wrote no {image.name}, a micrograph "
            f"was expected; see {log}"
        )
    names = {
        "micrograph": image.name,
        "plain": plain,
        "even": f"{stem}_EVN.mrc",
        "odd": f"{stem}_ODD.mrc",
        "star": f"{stem}.star",
        "picture": f"{stem}_drift.png",
    }
    return {
        field: name if (folder / name).is_file() else ""
        for field, name in names.items()
    }
