"""Motion correction of a movie by a program of others, with the result of our own."""

import shutil
from pathlib import Path

import numpy as np

from em_platform.cryoem import motion_files
from em_platform.cryoem.methods.motion import Motion
from em_platform.cryoem.movies import is_eer, open_movie
from em_platform.cryoem.programs import motion
from em_platform.cryoem.programs.arguments import Fields, Parameters
from em_platform.cryoem.programs.engine import refuse
from em_platform.cryoem.programs.run import Ran, check_written, run_program, scratch
from em_platform.cryoem.stage import ResultFields

# RELION's MPI asks for a fabric that few machines have.
_ENVIRONMENT = {"FI_PROVIDER": "tcp"}
_SINGLE, _BATCH = "relion_motion_correction", "relion_run_motioncorr"


def run(parameters: Parameters, folder: Path) -> ResultFields:
    """The fields of the stage's result; local motion stays the program's own affair.

    RELION is `relion_motion_correction` where it is installed, else RELION's own
    `relion_run_motioncorr`.
    """
    files, ran, moved = _run(parameters, folder)
    shifts = np.array([(y, x) for x, y in moved], float)
    shifts -= shifts[0]
    first = 1 + (parameters.throw or 0)
    image = folder / files["micrograph"]
    plot, picture = f"{image.stem}_drift_plot.json", f"{image.stem}_drift.png"
    motion_files.write_drift_plot(folder / plot, shifts)
    why = f"{ran.program} does not report it"
    motion_files.write_drift_picture(
        folder / picture,
        Motion(global_px=-shifts, local=None, reason=why),
        shape=open_movie(image).shape[1:],
    )
    pixel, (patches_x, patches_y) = parameters.pixel_size, parameters.patch_sizes
    return {
        **files,
        **motion_files.motion_statistics(
            shifts * pixel, early_frames=parameters.early_frames(len(shifts))
        ),
        "program": ran.program,
        "drift_plot": plot,
        "picture": picture,
        "pixel_size_a": pixel * (parameters.motion_corr_binning or 1),
        "frames": len(shifts),
        "first_frame": first,
        "last_frame": first + len(shifts) - 1,
        "dose_per_frame": parameters.dose_per_frame,
        "init_dose": parameters.init_dose or 0.0,
        "shift_x_px": tuple(round(float(x), 4) for x in shifts[:, 1]),
        "shift_y_px": tuple(round(float(y), 4) for y in shifts[:, 0]),
        "is_local": False,
        "local_motion_px": 0.0,
        "local_reason": why,
        "patches_x": patches_x,
        "patches_y": patches_y,
        "defects": 0,
    }


def _run(
    parameters: Parameters, folder: Path
) -> tuple[dict[str, str], Ran, motion.Shifts]:
    """Names of the files, how it ran, and what each frame is moved by, in pixels."""
    movie = parameters.movie.absolute()
    stem = (parameters.mrc_out or movie).name.removesuffix(".gz").rpartition(".")[0]
    image, log = folder / f"{stem}.mrc", folder / f"{stem}_motion.log"
    own = parameters.model_dump() | {"movie": str(movie), "mrc_out": str(image)}
    if "voltage" not in parameters.model_fields_set:
        own["voltage"] = None  # the program's own default, as upstream leaves it
    if parameters.b_factor != motion.B_FACTOR and not parameters.bft:
        own["bft"] = dict.fromkeys(
            ("global_motion", "local_motion"), parameters.b_factor
        )
    if parameters.engine == "motioncor2":
        command = motion.motioncor2_command(own)
        ran = run_program(command, log=log, time_limit_s=parameters.time_limit_s)
        files = _files(image)
        check_written(ran, [image], log=log)
        return files, ran, motion.shifts_of_motioncor2(ran.output)
    refuse(parameters, "throw", "trunc", "dark", engine="RELION")
    own["gain_ref"] = motion.relion_gain(movie, parameters.gain_ref)
    # 0: no EER, no flag.
    own["eer_grouping"] = is_eer(movie) and parameters.frames_per_group
    if shutil.which(_SINGLE) is None and shutil.which(_BATCH) is not None:
        ran = _run_batch(own, image, log)
    else:
        ran = run_program(
            motion.relion_command(own, eer_grouping=own["eer_grouping"]),
            log=log,
            makes=[image, image.with_suffix(".star")],
            time_limit_s=parameters.time_limit_s,
            environment=_ENVIRONMENT,
        )
    return _files(image), ran, motion.shifts_of_relion(image.with_suffix(".star"))


def _run_batch(own: Fields, image: Path, log: Path) -> Ran:
    """RELION's program for many movies takes a table and names outputs by the movie."""
    movie = Path(own["movie"])
    # A table has to say one; RELION's own default is that of the parameters.
    voltage, pixel = own["voltage"] or 300, own["pixel_size"]
    # Tables of the whole job, which other movies would write, too, go with the folder.
    with scratch(image.parent) as inside:
        star = inside / "movies.star"
        star.write_text(
            "\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n"
            "_rlnOpticsGroup #2\n_rlnMicrographOriginalPixelSize #3\n_rlnVoltage #4\n"
            "_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n"
            f"opticsGroup1 1 {pixel} {voltage} {own['spher_aber']} "
            f"{own['ampl_contrast']}\n\n"
            "\n# version 30001\n\ndata_movies\n\nloop_\n_rlnMicrographMovieName #1\n"
            f"_rlnOpticsGroup #2\n{movie.name} 1\n\n"
        )
        made = [inside / f"{movie.stem}{end}" for end in (".mrc", ".star")]
        ran = run_program(
            motion.relion_batch_command(
                own, star=star, folder=f"{inside}/", eer_grouping=own["eer_grouping"]
            ),
            log=log,
            makes=made,
            # Movies are named from where it runs.
            folder=movie.parent,
            time_limit_s=own["time_limit_s"],
            environment=_ENVIRONMENT,
        )
        for path in made:
            path.replace(image.with_suffix(path.suffix))
    return ran


def _files(image: Path) -> dict[str, str]:
    """Names by the fields of the result; what the program does not make has none."""
    folder, stem = image.parent, image.stem
    plain = f"{stem}_noDW.mrc"
    weighted = folder / f"{stem}_DW.mrc"  # MotionCor2's, where it weights
    if weighted.is_file():
        if image.is_file():
            image.replace(folder / plain)
        weighted.replace(image)
    names = {
        "micrograph": image.name,
        "plain": plain,
        "even": f"{stem}_EVN.mrc",
        "odd": f"{stem}_ODD.mrc",
        "star": f"{stem}.star",
    }
    return {
        field: name if (folder / name).is_file() else ""
        for field, name in names.items()
    }
