"""A job's report becomes its files, its rows and its place in the pipeline.

What is reported twice is written once: rows, nodes, edges and jobs are found again.
"""

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from em_platform.cryoem.project.jobs import (
    JOB,
    JOB_TYPES,
    NOTE,
    JobType,
    check_job,
    nodes_in,
    status_in,
    type_in,
    type_of,
)
from em_platform.cryoem.project.lock import project_lock
from em_platform.cryoem.project.options import job_star, known_of
from em_platform.cryoem.project.pipeline import (
    PIPELINE,
    Dialect,
    Pipeline,
    Process,
    read_pipeline,
    write_if_changed,
    write_pipeline,
)
from em_platform.cryoem.project.report import JobReport
from em_platform.cryoem.project.rows import write_rows
from em_platform.errors import OutputRefused, RecordError
from em_platform.storage.atomic import write_bytes

PROJECT_FILE = ".CCPEM_pipeliner_project"

_Inputs = tuple[tuple[str, str, str, str], ...]
# As RELION has it: the folder of another job may have such a name one day.
_NO_ALIAS = re.compile(r"job\d", re.IGNORECASE)
# Both look for their own.
_EXIT_FILES = ("RELION_JOB_EXIT", "PIPELINER_JOB_EXIT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """A job's part of the pipeline, in no dialect."""

    job_type: str
    experiment_type: str
    number: int
    alias: str
    success: bool
    inputs: _Inputs
    """Folder, type and experiment of the jobs whose tables it takes, and the table
    where the job may have several."""
    extra: tuple[str, ...] = ()
    """Those of its tables whose names are not known beforehand."""
    options: dict[str, str | float | bool] = field(default_factory=dict)
    """What is known of its run, for running it again."""


def record_job(report: JobReport, *, dialect: Dialect = "labels") -> Path:
    """Write a report into its project; the job's folder.

    Parameters
    ----------
    dialect
        Of a new pipeline; one that is there keeps its own.

    Raises
    ------
    RecordError
        The type of job is unknown, its file lies in no job, or a result is missing.
    OutputRefused
        The job's folder is of another type, of another program, or elsewhere.
    OutputBusy
        RELION or doppio is writing the pipeline (retryable).
    """
    job_type = type_of(report.job_type, report.experiment_type)
    report = replace(report, job_type=job_type)
    kind = JOB_TYPES.get(job_type)
    if kind is None or not kind.outputs(report.experiment_type):
        raise RecordError(
            f"project: {report.job_type!r} is no type of a {report.experiment_type} "
            f"job, one of {', '.join(JOB_TYPES)} was expected; correct job_type"
        )
    if report.alias and _NO_ALIAS.match(report.alias):
        raise RecordError(
            f"project: the alias {report.alias!r} is the name of a job, another one "
            "was expected; correct the message"
        )
    project, folder, number = _job_of(report.output_file, kind.folder)
    job = project / folder
    project.mkdir(parents=True, exist_ok=True)
    with project_lock(project):
        pipeline = read_pipeline(project / PIPELINE) or Pipeline(dialect=dialect)
        earlier = _note_in(job)
        if earlier is None or earlier.job_type != job_type:
            _refuse_another(pipeline, f"{folder}/", job_type)
        known = known_of(report, project)
        check_job(job, project)
        job.mkdir(parents=True, exist_ok=True)
        if report.success:
            write_rows(report, kind, project, job)
        _write_logs(report, job)
        note = _Note(
            job_type=job_type,
            experiment_type=report.experiment_type,
            number=number,
            alias=f"{kind.folder}/{report.alias}/" if report.alias else "None",
            # A failed movie does not undo what the others have given.
            success=report.success or (earlier is not None and earlier.success),
            inputs=_merged(earlier, _inputs(report, project)),
            extra=_extra(kind, report.experiment_type, job),
            options=(earlier.options if earlier else {}) | known,
        )
        _write_job_files(note, job, pipeline.dialect)
        _put(pipeline, note, kind)
        _link_alias(project, note, folder)
        content = write_pipeline(pipeline, project / PIPELINE)
        write_if_changed(job / PIPELINE, content)
        _write_project_file(project)
    return job


def rebuild_pipeline(project: Path, *, dialect: Dialect) -> int:
    """Make the pipeline anew from what stands in the jobs' folders; how many jobs.

    Jobs that RELION or doppio ran stay, as long as the dialect does.

    Raises
    ------
    RecordError
        None of its jobs was made by this program.
    """
    found = [(note, j) for j in project.glob("*/job*") if (note := _note_in(j))]
    notes = sorted(found, key=lambda each: each[0].number)
    if not notes:
        raise RecordError(
            f"project: {project} has no job of this program, one was expected; name "
            "the folder that holds default_pipeline.star"
        )
    with project_lock(project):
        there = read_pipeline(project / PIPELINE)
        keep = there is not None and there.dialect == dialect
        pipeline = there if there and keep else Pipeline(dialect=dialect)
        for note, job in notes:
            _put(pipeline, note, JOB_TYPES[note.job_type])
            _write_job_files(note, job, dialect)
        write_pipeline(pipeline, project / PIPELINE)
    return len(notes)


def _job_of(path: str, folder: str) -> tuple[Path, str, int]:
    """Project, folder of the job within it, and its number."""
    found = JOB.fullmatch(path)
    if found is None or found["folder"] != folder:
        raise RecordError(
            f"project: {path} lies in no job, .../{folder}/job002/... was expected; "
            "correct the path"
        )
    number = int(found["number"])
    # By the pipeline's name of it: `job2` is no other job.
    return Path(found["project"]), f"{folder}/job{number:03}", number


def _inputs(report: JobReport, project: Path) -> _Inputs:
    """The jobs of this project whose files this one took."""
    found = []
    for path in report.input_file.split(":"):
        match = JOB.fullmatch(path)
        if match is None or Path(match["project"]) != project:
            continue  # a movie of the microscope, or of another project
        folder = f"{match['folder']}/job{match['number']}"
        note = _note_in(project / folder)
        if note is not None:
            table = Path(path).name if Path(path).name in note.extra else ""
            found.append((folder, note.job_type, note.experiment_type, table))
    return tuple(found)


def _extra(kind: JobType, experiment_type: str, job: Path) -> tuple[str, ...]:
    patterns = [o.star for o in kind.outputs(experiment_type) if o.is_pattern]
    return tuple(sorted(path.name for each in patterns for path in job.glob(each)))


def _merged(earlier: _Note | None, inputs: _Inputs) -> _Inputs:
    return tuple(dict.fromkeys((*(earlier.inputs if earlier else ()), *inputs)))


def _refuse_another(pipeline: Pipeline, name: str, job_type: str) -> None:
    there = pipeline.processes.get(name)
    mine = type_in(pipeline.dialect, job_type)
    if there is not None and there.type != mine:
        raise OutputRefused(
            f"project: {name} is a job of the type {there.type}, {mine} was to be "
            "written; give this job another number"
        )


def _put(pipeline: Pipeline, note: _Note, kind: JobType) -> None:
    """Put a job, its outputs and its edges into the pipeline."""
    dialect = pipeline.dialect
    name = f"{kind.folder}/job{note.number:03}/"
    pipeline.processes[name] = Process(
        name=name,
        alias=note.alias,
        type=type_in(dialect, note.job_type),
        status=status_in(dialect, success=note.success),
    )
    pipeline.counter = max(pipeline.counter, note.number + 1)
    for output in kind.outputs(note.experiment_type) if note.success else ():
        for star, type_ in nodes_in(dialect, output, note.extra):
            pipeline.nodes[f"{name}{star}"] = type_
            pipeline.outputs[name, f"{name}{star}"] = None
    for folder, job_type, experiment_type, table_name in note.inputs:
        for taken in JOB_TYPES[job_type].outputs(experiment_type):
            for star, type_ in nodes_in(dialect, taken, [table_name]):
                pipeline.nodes.setdefault(f"{folder}/{star}", type_)
                pipeline.inputs[f"{folder}/{star}", name] = None


def _note_in(job: Path) -> _Note | None:
    try:
        content = json.loads((job / NOTE).read_bytes())
        content["inputs"] = tuple((*each, "")[:4] for each in content["inputs"])
        content["extra"] = tuple(content["extra"])
        content["job_type"] = type_of(content["job_type"], content["experiment_type"])
        return _Note(**content)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a job of RELION's, or none at all


def _write_logs(report: JobReport, job: Path) -> None:
    write_if_changed(job / "run.out", _utf8(report.stdout).encode())
    # What each file of the job has to say, once.
    for name, stated in (("run.err", report.stderr), ("note.txt", report.command)):
        log, text = job / name, _utf8(stated)
        # What a link leads to may be another's.
        is_ours = log.is_file() and not log.is_symlink()
        there = log.read_text(errors="replace") if is_ours else ""
        new = f"{text}\n" if text else ""
        is_new = f"\n{new}" not in f"\n{there}"
        write_if_changed(log, (there + new if is_new else there).encode())


def _utf8(text: str) -> str:
    """The text without halves of letters, which JSON can have and no file."""
    return text.encode(errors="replace").decode()


def _write_job_files(note: _Note, job: Path, dialect: Dialect) -> None:
    write_if_changed(job / NOTE, json.dumps(asdict(note), indent=1).encode())
    for begin in _EXIT_FILES:
        ended = job / f"{begin}_{'SUCCESS' if note.success else 'FAILURE'}"
        if not ended.exists():
            write_bytes(ended, b"")
        if note.success:
            (job / f"{begin}_FAILURE").unlink(missing_ok=True)
    for name, is_continue in (("job.star", False), ("continue_job.star", True)):
        content = job_star(
            note.job_type,
            dialect=dialect,
            is_tomo=note.experiment_type == "tomography",
            is_continue=is_continue,
            known=note.options,
            taken=note.inputs,
        )
        write_if_changed(job / name, content)


def _link_alias(project: Path, note: _Note, folder: str) -> None:
    """`MotionCorr/Live_motioncorr` -> `job002`, as RELION links an alias."""
    if note.alias == "None":
        return
    link = project / note.alias.rstrip("/")
    with suppress(FileExistsError):
        link.symlink_to(Path(folder).name)
        return
    if not link.is_symlink() or link.readlink().name != Path(folder).name:
        raise OutputRefused(
            f"project: {link} is not this job's, a link to {folder} was expected; give "
            "the job another alias, or remove it"
        )


def _write_project_file(project: Path) -> None:
    path = project / PROJECT_FILE
    if path.exists():
        return
    content = {
        "project name": project.name,
        "description": "made by em-platform",
        "pipeline file": PIPELINE,
    }
    write_bytes(path, json.dumps(content, indent=1).encode())
