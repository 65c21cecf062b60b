"""2-D classes of a batch of particles, for records and pictures."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from em_platform.cryoem.project.batches import batch_number
from em_platform.cryoem.services.stage_run import job_path, run_stage
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stage import RelionOptions, StageParameters
from em_platform.cryoem.stages import classify
from em_platform.model import JsonObject

# What RELION has to know to run the job again.
_RUN = {"class2d_nr_classes", "class2d_nr_iter", "tau_fudge", "offset_range"}


class Parameters(StageParameters):
    """What of the message the service itself needs."""

    particles_file: Path
    class2d_dir: Path
    batch_is_complete: bool = False
    class2d_grp_uuid: int
    class_uuids: dict[str, int]
    picker_id: int | None = None
    relion_options: RelionOptions = Field(default_factory=dict)

    @field_validator("class_uuids", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        # Murfey sends a table as text, as Python writes it.
        return json.loads(value.replace("'", '"')) if isinstance(value, str) else value


def handle(step: Step, place: ServiceContext) -> None:
    """Sort the particles of a message into classes."""
    own = step.validated(Parameters)
    parameters = step.validated(classify.Parameters, **place.parameters_of("classify"))
    out = job_path(own.class2d_dir / "run")
    folder = out.other(out.folder, out.number).parent
    result, _reused = run_stage(
        "classify",
        parameters,
        folder=folder,
        stem="run",
        takes=own.particles_file,
        made=place.made,
    )
    options = {
        **own.relion_options,
        **parameters.model_dump(include=_RUN),
        "mask_diameter": result.mask_diameter_a,
    }
    step.send(
        "node_creator",
        {
            # Whatever a message says of VDAM: this is expectation maximisation.
            "job_type": "relion.class2d.em",
            "input_file": str(own.particles_file),
            "output_file": str(own.class2d_dir),
            "relion_options": options,
            "command": f"em-platform cryoem classify {own.particles_file}",
        },
    )
    averages = folder / result.averages
    step.send(
        "images",
        {"image_command": "mrc_to_jpeg", "file": str(averages), "all_frames": "True"},
    )
    step.send(
        "ispyb_connector",
        {
            "ispyb_command": "multipart_message",
            "ispyb_command_list": _records(own, result, averages),
        },
    )
    if not own.batch_is_complete:
        feedback = {"register": "done_incomplete_2d_batch"}
        step.send("murfey_feedback", {**feedback, "job_dir": str(own.class2d_dir)})


def _records(
    own: Parameters, result: classify.Result, averages: Path
) -> list[JsonObject]:
    """The group, then its classes, the largest first."""
    group: JsonObject = {
        "ispyb_command": "buffer",
        "buffer_command": {"ispyb_command": "insert_particle_classification_group"},
        "buffer_store": own.class2d_grp_uuid,
        "type": "2D",
        "batch_number": batch_number(own.particles_file),
        "number_of_particles_per_batch": result.particles,
        "number_of_classes_per_batch": len(result.classes),
        "symmetry": "C1",
        "binned_pixel_size": result.pixel_size_a,
        "particle_picker_id": own.picker_id,
    }
    # Where fewer numbers were given than classes came out, the others have none.
    numbers = dict(enumerate(own.class_uuids.values(), 1))
    classes: list[JsonObject] = [
        {
            "ispyb_command": "buffer",
            "buffer_command": {"ispyb_command": "insert_particle_classification"},
            "buffer_lookup": {"particle_classification_group_id": own.class2d_grp_uuid},
            "buffer_store": numbers.get(each.number),
            "class_number": each.number,
            "class_image_full_path": str(
                averages.with_name(f"{averages.stem}_{each.number}.jpeg")
            ),
            "particles_per_class": each.particles,
            "class_distribution": each.share,
            # ISPyB's 0 is RELION's infinite.
            "estimated_resolution": each.resolution_a or 0.0,
        }
        for each in result.classes
    ]
    return [group, *classes]
