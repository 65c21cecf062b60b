"""Particles into batches for classification, which are reported to the project."""

from pathlib import Path

from pydantic import Field

from em_platform.cryoem.project.batches import add_to_batches
from em_platform.cryoem.services.stage_run import job_path
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stage import RelionOptions, StageParameters


class Parameters(StageParameters):
    """The particles of one micrograph, and how many make a batch."""

    input_file: Path
    batch_size: int = Field(gt=0)
    image_size: int = Field(gt=0)
    incomplete_batch_size: int = Field(10_000, gt=0)
    relion_options: RelionOptions = Field(default_factory=dict)


def handle(step: Step, _: ServiceContext) -> None:
    """Put the particles of a message into batches."""
    own = step.validated(Parameters)
    extracted = job_path(own.input_file)
    options = {**own.relion_options, "batch_size": own.batch_size}
    folder = extracted.project / "Select" / f"job{extracted.number + 1:03}"
    found = add_to_batches(
        own.input_file,
        project=extracted.project,
        folder=folder,
        size=own.batch_size,
        options=options,
        box_px=own.image_size,
    )
    if found.last == 1 or found.full:
        step.send(
            "node_creator",
            {
                "job_type": "relion.select.split",
                "input_file": str(own.input_file),
                "output_file": str(found.table(found.last)),
                "relion_options": options,
                "alias": "Live_particle_batches",
            },
        )

    def register(what: str, number: int) -> None:
        message = {
            "class2d_dir": f"{extracted.project}/Class2D/job",
            "batch_size": own.batch_size,
            "particles_file": str(found.table(number)),
        }
        feedback = {"register": f"{what}_particles_file", "class2d_message": message}
        step.send("murfey_feedback", feedback)

    # The first batch is classified from its first particles on, and as it grows.
    grown = found.after // own.incomplete_batch_size
    is_due = found.before == 0 or grown > found.before // own.incomplete_batch_size
    if found.last == 1 and found.after and is_due:
        register("incomplete", 1)
    for number in found.full:
        register("complete", number)
    step.send("murfey_feedback", {"register": "done_particle_selection"})
