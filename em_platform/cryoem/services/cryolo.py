"""Particles of a micrograph, for the channel that crYOLO has in recipes.

The built-in picker looks for blobs of the particles' diameter; crYOLO and Topaz are
engines of the stage.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from em_platform.cryoem.optics import stated_optics
from em_platform.cryoem.services.stage_run import job_path, run_stage
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stage import RelionOptions, StageParameters
from em_platform.cryoem.stages import pick
from em_platform.model import Json, JsonObject

# By the name of the program.
_JOB_TYPES = {
    "cryolo_predict.py": "cryolo.autopick",
    "topaz": "relion.autopick.topaz.pick",
}
_LOG = "relion.autopick.log"
# ISPyB has nm.
_A_PER_NM = 10.0


class Parameters(StageParameters):
    """What of the message the service itself needs."""

    output_path: Path
    experiment_type: Literal["spa"] = "spa"
    mc_uuid: int | None = None
    picker_uuid: int | None = None
    relion_options: RelionOptions = Field(default_factory=dict)
    ctf_values: RelionOptions = Field(default_factory=dict)


def handle(step: Step, place: ServiceContext) -> None:
    """Pick the particles of the micrograph of a message."""
    own = step.validated(Parameters)
    parameters = step.validated(pick.Parameters, **place.parameters_of("pick"))
    out = job_path(own.output_path)
    folder = own.output_path.parent
    image = parameters.micrograph
    result, _reused = run_stage(
        "pick",
        parameters,
        folder=folder,
        stem=out.rest.stem,
        takes=image,
        made=place.made,
    )
    coordinates = folder / result.coordinates
    diameter = parameters.particle_diameter or result.median_diameter_a
    options = {**own.relion_options, "particle_diameter": diameter}
    smallest, largest = parameters.diameters_a
    searched = {"min_diameter": smallest, "max_diameter": largest}
    step.send(
        "node_creator",
        {
            "job_type": _JOB_TYPES.get(result.program.split()[0], _LOG),
            "experiment_type": own.experiment_type,
            "input_file": str(image),
            "output_file": str(coordinates),
            "relion_options": {**options, **searched},
            "command": f"em-platform cryoem pick {image}",
            "alias": "Live_cryolo",
        },
    )
    step.send("ispyb_connector", _record(own, result, diameter, folder))
    extract = out.other("Extract", out.number + 1).parent / f"{image.stem}_extract.star"
    step.send(
        "murfey_feedback",
        {
            "register": "picked_particles",
            "motion_correction_id": own.mc_uuid,
            "micrograph": str(image),
            "number_of_particles": result.particles,
            "resolution": own.ctf_values.get("ctf_max_resolution"),
            "extraction_parameters": {
                "micrographs_file": str(image),
                "coord_list_file": str(coordinates),
                "output_file": str(extract),
                "pixel_size": parameters.pixel_size,
                "relion_options": options,
                **stated_optics(options),
                **own.ctf_values,
            },
        },
    )


def _record(
    own: Parameters, result: pick.Result, diameter: float | None, folder: Path
) -> JsonObject:
    program = result.program.split()[0]
    template = result.program if program in _JOB_TYPES else "em-platform LoG"
    record: dict[str, Json] = {
        "ispyb_command": "buffer",
        "buffer_command": {"ispyb_command": "insert_particle_picker"},
        "particle_picking_template": template,
        "number_of_particles": result.particles,
        "particle_diameter": None if diameter is None else diameter / _A_PER_NM,
        "summary_image_full_path": str(folder / result.picture),
    }
    if own.mc_uuid is not None:
        record["buffer_lookup"] = {"motion_correction_id": own.mc_uuid}
    if own.picker_uuid is not None:
        record["buffer_store"] = own.picker_uuid
    return record
