"""Motion correction of a movie, and word of it to fit, pictures and records."""

from pathlib import Path

from em_platform.cryoem.exposure import dose_before
from em_platform.cryoem.optics import optics_of
from em_platform.cryoem.project.jobs import type_of
from em_platform.cryoem.series_mdoc import mdoc_naming
from em_platform.cryoem.services.stage_run import JobPath, job_path, link, run_stage
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stage import RelionOptions
from em_platform.cryoem.stages import motion
from em_platform.cryoem.tilt_name import movie_stem, tilt_name
from em_platform.errors import MessageRejected
from em_platform.model import Json, JsonObject

_JOB_TYPE, _MOTIONCOR2 = "relion.motioncorr.own", "relion.motioncorr.motioncor2"

_RUN = {
    *("gain_ref", "rot_gain", "flip_gain", "motion_corr_binning", "threads"),
    "b_factor",
}

# IceBreaker's three jobs stand between this one and the CTF where they are wanted.
_ICEBREAKER_JOBS = 3


def handle(step: Step, place: ServiceContext) -> None:
    """Correct the movie of a message."""
    parameters = step.validated(motion.Parameters, **place.parameters_of("motion"))
    # The fit's own word for the microscope counts for all that is made before it.
    fit = optics_of(step.parameters_at("ctffind"), parameters.ctf)
    stated = fit.model_dump(exclude_unset=True)
    parameters = _completed(parameters.model_copy(update=stated))
    options = parameters.relion_options
    if parameters.experiment_type == "tomography" and not tilt_name(parameters.movie):
        options = {**_tilt_of(parameters.movie), **options}
        parameters = parameters.model_copy(update={"relion_options": options})
    out = job_path(_needed(parameters.mrc_out))
    folder = out.other(out.folder, out.number).parent
    result, _reused = run_stage(
        "motion",
        parameters,
        folder=folder,
        stem=out.rest.stem,
        takes=parameters.movie,
        made=place.made,
    )
    micrograph = folder / result.micrograph
    options = _options(parameters, result)
    _send_to_project(step, parameters, result, out=out, options=options)
    step.send("images", {"image_command": "mrc_to_jpeg", "file": str(micrograph)})
    step.send("ispyb_connector", _record(parameters, result, folder))
    step.send("ctffind", _for_fit(parameters, out, micrograph, options))


def _tilt_of(movie: Path) -> RelionOptions:
    """Series and angle of a movie whose name has neither, by its series' mdoc."""
    mdoc = mdoc_naming(movie)
    if mdoc is None:
        return {}
    tilt = mdoc.tilts[movie_stem(movie)]
    return {"tilt_series": mdoc.series, "tilt_angle": tilt.angle_deg}


def _needed(path: Path | None) -> Path:
    if path is None:
        raise MessageRejected(
            "message: mrc_out is missing, the path of the micrograph was expected; "
            "send it with the message or write it into the recipe's step"
        )
    return path


def _completed(parameters: motion.Parameters) -> motion.Parameters:
    """With the dose before a tilt."""
    if parameters.experiment_type != "tomography" or parameters.init_dose is not None:
        return parameters
    if not parameters.movie.is_file():
        return parameters  # the stage says what is wrong with it
    dose = dose_before(
        parameters.movie,
        dose_per_frame=parameters.dose_per_frame,
        frames=parameters.frame_count,
    )
    return parameters.model_copy(update={"init_dose": dose})


def _options(parameters: motion.Parameters, result: motion.Result) -> RelionOptions:
    """The blob that steps hand on, with what this one knows."""
    return {
        **parameters.relion_options,
        **parameters.optics,
        "pixel_size": result.pixel_size_a,
        "dose_per_frame": parameters.dose_per_frame,
        "frame_count": parameters.frame_count or result.frames,
        # Ours alone: tables of the project have it, too.
        "pre_exposure": result.init_dose,
    }


def _send_to_project(
    step: Step,
    parameters: motion.Parameters,
    result: motion.Result,
    *,
    out: JobPath,
    options: RelionOptions,
) -> None:
    """Report the import of the movie, which no other service does, and the job."""
    is_tomo = parameters.experiment_type == "tomography"
    by_motioncor2 = result.program.startswith("MotionCor2")
    movie = out.other("Import", out.number - 1).parent / parameters.movie.name
    link(movie, parameters.movie)
    common = {"experiment_type": parameters.experiment_type}
    # That of the movie, where its sum is binned.
    imported = {**options, "pixel_size": parameters.pixel_size}
    mdocs = f":{parameters.movie.parent}/*.mdoc" if is_tomo else ""
    step.send(
        "node_creator",
        {
            **common,
            "relion_options": imported,
            "job_type": "relion.importtomo" if is_tomo else "relion.import.movies",
            "input_file": f"{parameters.movie}{mdocs}",
            "output_file": str(movie),
            "alias": "Live_import",
        },
    )
    step.send(
        "node_creator",
        {
            **common,
            "relion_options": options | _run_options(parameters),
            "job_type": type_of(
                _MOTIONCOR2 if by_motioncor2 else _JOB_TYPE, parameters.experiment_type
            ),
            "input_file": str(movie),
            "output_file": str(out.other(out.folder, out.number)),
            "command": f"em-platform cryoem motion {parameters.movie}",
            "results": {
                "total_motion": result.total_motion_a,
                "early_motion": result.early_motion_a,
                "late_motion": result.late_motion_a,
            },
            "alias": "Live_motioncorr",
        },
    )


def _run_options(parameters: motion.Parameters) -> RelionOptions:
    """What RELION has to know to run the job again."""
    x, y = parameters.patch_sizes
    own: RelionOptions = {"patch_sizes": {"x": x, "y": y}}
    if parameters.movie.suffix == ".eer":
        own["eer_grouping"] = parameters.frames_per_group
    return own | parameters.model_dump(mode="json", include=_RUN, exclude_none=True)


def _record(
    parameters: motion.Parameters, result: motion.Result, folder: Path
) -> JsonObject:
    micrograph = folder / result.micrograph
    message: dict[str, Json] = {
        "ispyb_command": "buffer",
        "buffer_command": {"ispyb_command": "insert_motion_correction"},
        "first_frame": result.first_frame,
        "last_frame": result.last_frame,
        "total_motion": result.total_motion_a,
        "average_motion_per_frame": result.average_motion_a,
        "drift_plot_full_path": str(folder / result.drift_plot),
        "micrograph_snapshot_full_path": str(micrograph.with_suffix(".jpeg")),
        "micrograph_full_path": str(micrograph),
        "patches_used_x": result.patches_x,
        "patches_used_y": result.patches_y,
        "dose_per_frame": parameters.dose_per_frame,
    }
    if parameters.mc_uuid is not None:
        message["buffer_store"] = parameters.mc_uuid
    return message


def _for_fit(
    parameters: motion.Parameters,
    out: JobPath,
    micrograph: Path,
    options: RelionOptions,
) -> JsonObject:
    is_spa = parameters.experiment_type == "spa"
    between = _ICEBREAKER_JOBS if is_spa and parameters.do_icebreaker_jobs else 0
    output = out.other("CtfFind", out.number + 1 + between, suffix=".ctf")
    return {
        **parameters.ctf,
        "experiment_type": parameters.experiment_type,
        "movie": str(parameters.movie),
        "input_image": str(micrograph),
        "output_image": str(output),
        "mc_uuid": parameters.mc_uuid,
        "picker_uuid": parameters.picker_uuid,
        "pixel_size": options["pixel_size"],
        **parameters.optics,
        "relion_options": options,
    }
