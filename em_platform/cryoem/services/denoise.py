"""A tomogram with less noise, and word of it to pictures, records and project."""

from pathlib import Path

from pydantic import Field

from em_platform.cryoem.headers import read_header
from em_platform.cryoem.project.jobs import JOB
from em_platform.cryoem.services.stage_run import job_path, run_stage
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stage import RelionOptions, StageParameters
from em_platform.cryoem.stages import denoise


class Parameters(StageParameters):
    """What of the message the service itself needs."""

    volume: Path
    output_dir: Path | None = None
    relion_options: RelionOptions = Field(default_factory=dict)


def handle(step: Step, place: ServiceContext) -> None:
    """Denoise the tomogram of a message."""
    own = step.validated(Parameters)
    # Upstream's message has no pixel size: Topaz needs none.
    stated = read_header(own.volume).pixel_size_a if own.volume.is_file() else 1.0
    pixel = {} if stated is None else {"pixel_size": stated}
    parameters = step.validated(
        denoise.Parameters, **pixel, **place.parameters_of("denoise")
    )
    folder = own.output_dir or own.volume.parent
    result, _reused = run_stage(
        "denoise",
        parameters,
        folder=folder,
        stem=own.volume.stem,
        takes=own.volume,
        made=place.made,
    )
    denoised = folder / result.denoised
    if JOB.fullmatch(str(denoised)):
        _send_to_project(step, own, denoised)
    step.send("images", {"image_command": "mrc_central_slice", "file": str(denoised)})
    step.send("movie", {"image_command": "mrc_to_apng", "file": str(denoised)})
    step.send(
        "ispyb_connector",
        {
            "ispyb_command": "insert_processed_tomogram",
            "file_path": str(denoised),
            "processing_type": "Denoised",
        },
    )


def _send_to_project(step: Step, own: Parameters, denoised: Path) -> None:
    """Report the job, and ask those for more who know the next jobs' folders."""
    step.send(
        "node_creator",
        {
            "job_type": "relion.denoisetomo",
            "experiment_type": "tomography",
            "input_file": str(own.volume),
            "output_file": str(denoised),
            "relion_options": own.relion_options,
            "command": f"em-platform cryoem denoise {own.volume}",
        },
    )
    out = job_path(denoised)
    segmented = out.other("Segmentation", out.number + 1).parent
    step.send(
        "segmentation",
        {
            "tomogram": str(denoised),
            "output_dir": str(segmented),
            "relion_options": own.relion_options,
        },
    )
