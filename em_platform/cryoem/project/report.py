"""What a service reports of its work to the project."""

from dataclasses import dataclass, field

from em_platform.cryoem.stage import RelionOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """What a service reports of one file that its job has made."""

    job_type: str
    input_file: str
    output_file: str
    experiment_type: str = "spa"
    relion_options: RelionOptions = field(default_factory=dict)
    results: RelionOptions = field(default_factory=dict)
    command: str = ""
    stdout: str = ""
    stderr: str = ""
    success: bool = True
    alias: str | None = None
