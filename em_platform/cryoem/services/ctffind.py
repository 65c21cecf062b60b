"""The CTF of a micrograph, and word of it to pictures, records, picker and project."""

from pathlib import Path

from em_platform.cryoem.project.jobs import type_of
from em_platform.cryoem.services.stage_run import JobPath, job_path, run_stage
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stages import ctf
from em_platform.errors import MessageRejected
from em_platform.model import Json, JsonObject

# What RELION has to know to run the job again.
_RUN = {
    *("ampl_spectrum", "min_res", "max_res", "min_defocus", "max_defocus"),
    "defocus_step",
}


def handle(step: Step, place: ServiceContext) -> None:
    """Fit the CTF of the micrograph of a message."""
    parameters = step.validated(ctf.Parameters, **place.parameters_of("ctf"))
    if parameters.output_image is None:
        raise MessageRejected(
            "message: output_image is missing, the path of the spectrum was expected; "
            "send it with the message or write it into the recipe's step"
        )
    out = job_path(parameters.output_image)
    folder = parameters.output_image.parent
    options = parameters.relion_options | parameters.optics
    parameters = parameters.model_copy(update={"relion_options": options})
    result, _reused = run_stage(
        "ctf",
        parameters,
        folder=folder,
        stem=out.rest.stem,
        takes=parameters.input_image,
        made=place.made,
    )
    diagnostic = folder / result.diagnostic
    step.send(
        "node_creator",
        {
            "job_type": type_of("relion.ctffind.ctffind4", parameters.experiment_type),
            "experiment_type": parameters.experiment_type,
            "input_file": str(parameters.input_image),
            "output_file": str(parameters.output_image),
            "relion_options": {
                **parameters.relion_options,
                **parameters.model_dump(include=_RUN),
            },
            "command": f"em-platform cryoem ctf {parameters.input_image}",
            "results": {**_numbers(result), "ctf_image": str(diagnostic)},
            "alias": "Live_ctffind",
        },
    )
    step.send("images", {"image_command": "mrc_to_jpeg", "file": str(diagnostic)})
    step.send("ispyb_connector", _record(parameters, result, str(diagnostic)))
    if parameters.experiment_type == "tomography":
        feedback = {"register": "motion_corrected", "movie": str(parameters.movie)}
        feedback["mrc_out"] = str(parameters.input_image)
        step.send("murfey_feedback", feedback)
    else:
        step.send("cryolo", _for_picker(parameters, result, out, diagnostic))


def _numbers(result: ctf.Result) -> JsonObject:
    return {
        "defocus_u": result.defocus_u_a,
        "defocus_v": result.defocus_v_a,
        "astigmatism_angle": result.astigmatism_deg,
        "cc_value": result.score,
        "resolution": result.fit_resolution_a,
        "ice_ring_density": result.ice_ring_density,
    }


def _record(
    parameters: ctf.Parameters, result: ctf.Result, diagnostic: str
) -> JsonObject:
    message: dict[str, Json] = {
        "ispyb_command": "buffer",
        "buffer_command": {"ispyb_command": "insert_ctf"},
        "box_size_x": result.box_px,
        "box_size_y": result.box_px,
        "min_resolution": parameters.min_res,
        "max_resolution": parameters.max_res,
        "min_defocus": parameters.min_defocus,
        "max_defocus": parameters.max_defocus,
        "astigmatism": result.defocus_u_a - result.defocus_v_a,
        "astigmatism_angle": result.astigmatism_deg,
        "estimated_resolution": result.fit_resolution_a,
        "estimated_defocus": (result.defocus_u_a + result.defocus_v_a) / 2,
        "amplitude_contrast": parameters.ampl_contrast,
        "cc_value": result.score,
        "fft_theoretical_full_path": f"{diagnostic.rpartition('.')[0]}.jpeg",
        "ice_ring_density": result.ice_ring_density,
    }
    if parameters.mc_uuid is not None:
        message["buffer_lookup"] = {"motion_correction_id": parameters.mc_uuid}
    return message


def _for_picker(
    parameters: ctf.Parameters, result: ctf.Result, out: JobPath, diagnostic: Path
) -> JsonObject:
    output = out.other("AutoPick", out.number + 1, suffix=".star")
    return {
        **parameters.autopick,
        "experiment_type": "spa",
        "input_path": str(parameters.input_image),
        "output_path": str(output),
        "pixel_size": parameters.pixel_size,
        "mc_uuid": parameters.mc_uuid,
        "picker_uuid": parameters.picker_uuid,
        "relion_options": parameters.relion_options,
        "ctf_values": {
            "ctf_image": str(diagnostic),
            "ctf_max_resolution": result.fit_resolution_a,
            "ctf_figure_of_merit": result.score,
            "defocus_u": result.defocus_u_a,
            "defocus_v": result.defocus_v_a,
            "defocus_angle": result.astigmatism_deg,
        },
    }
