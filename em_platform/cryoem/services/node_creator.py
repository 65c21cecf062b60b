"""What other services have made, in a project that RELION and doppio open."""

from typing import Annotated, Literal

from pydantic import Field

from em_platform.cryoem.project import JobReport, record_job
from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stage import Name, RelionOptions, Rule, StageParameters, Text


class Parameters(StageParameters):
    """One file that a job has made, as cryo-EM services report it."""

    job_type: Text
    input_file: Annotated[str, Rule.PATHS] = Field(min_length=1)
    output_file: Annotated[str, Rule.PATH] = Field(min_length=1)
    experiment_type: Literal["spa", "tomography"] = "spa"
    relion_options: RelionOptions = Field(default_factory=dict)
    results: RelionOptions = Field(default_factory=dict)
    command: Text = ""
    stdout: Text = ""
    stderr: Text = ""
    success: bool = True
    alias: Name | None = None


def handle(step: Step, place: ServiceContext) -> None:
    """Write a report into the project that its output file lies in."""
    parameters = step.validated(Parameters)
    report = JobReport(**parameters.model_dump())
    record_job(report, dialect=place.dialect)
