"""Particles cut out of a micrograph, and word of them to project and selection."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from em_platform.cryoem.project.rows import write_extracted
from em_platform.cryoem.services.stage_run import job_path, run_stage
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stage import RelionOptions, Rule, StageParameters
from em_platform.cryoem.stages import extract


class Parameters(StageParameters):
    """What of the message the service itself needs."""

    output_file: Path
    ctf_image: Annotated[str, Rule.PATH] = ""
    batch_size: int = 50_000
    relion_options: RelionOptions = Field(default_factory=dict)


def handle(step: Step, place: ServiceContext) -> None:
    """Cut the particles of the micrograph of a message."""
    own = step.validated(Parameters)
    parameters = step.validated(extract.Parameters, **place.parameters_of("extract"))
    out = job_path(own.output_file)
    # A folder of its own: the stage calls its table `particles.star` each time.
    folder = out.checked(own.output_file.parent / own.output_file.stem)
    result, _reused = run_stage(
        "extract",
        parameters,
        folder=folder,
        stem=out.rest.stem,
        takes=parameters.micrographs_file,
        made=place.made,
    )
    if not result.particles:
        return  # nothing that anybody could take
    options = {
        **own.relion_options,
        "pixel_size": parameters.pixel_size,
        "pixel_size_downscaled": result.pixel_size_a,
        "boxsize": parameters.sides_px[0],
        "small_boxsize": result.box_px,
        "downscale": parameters.downscale,
        **parameters.optics,
    }
    write_extracted(
        folder / result.star,
        own.output_file,
        micrograph=parameters.micrographs_file,
        project=out.project,
        options=options,
    )
    step.send(
        "node_creator",
        {
            "job_type": "relion.extract",
            # RELION takes micrographs from the job that fitted them.
            "input_file": f"{own.ctf_image or parameters.micrographs_file}:"
            f"{parameters.coord_list_file}",
            "output_file": str(own.output_file),
            "relion_options": options,
            "command": f"em-platform cryoem extract {parameters.micrographs_file}",
            "results": {"box_size": result.box_px},
            "alias": "Live_all_particles",
        },
    )
    step.send(
        "select_particles",
        {
            "input_file": str(own.output_file),
            "batch_size": own.batch_size,
            "image_size": result.box_px,
            "relion_options": options,
        },
    )
