"""`default_pipeline.star`: the jobs of a project and what goes from one to the next.

RELION 3.1 writes types and states as numbers, RELION 4 and 5 and doppio as labels. What
other programs have written stays as it is, whatever its types are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gemmi import cif

from em_platform.cryoem.methods.star_text import table, word
from em_platform.errors import FormatError
from em_platform.storage.atomic import write_bytes

PIPELINE = "default_pipeline.star"

Dialect = Literal["labels", "relion31"]

_PREFIX = "_rlnPipeLine"
_VERSIONS = {"labels": "50001", "relion31": "30001"}
_PROCESS_COLUMNS = {
    "labels": ("ProcessTypeLabel", "ProcessStatusLabel"),
    "relion31": ("ProcessType", "ProcessStatus"),
}
_NODE_COLUMN = {"labels": "NodeTypeLabel", "relion31": "NodeType"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A job; type and status are as the dialect writes them."""

    name: str  # `MotionCorr/job002/`
    alias: str  # `MotionCorr/Live_motioncorr/`, or `None` as RELION writes it
    type: str
    status: str


@dataclass(slots=True, kw_only=True)
class Pipeline:
    """The content of the file; edges are `(node, process)` and `(process, node)`."""

    dialect: Dialect
    counter: int = 1
    processes: dict[str, Process] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    inputs: dict[tuple[str, str], None] = field(default_factory=dict)
    outputs: dict[tuple[str, str], None] = field(default_factory=dict)


def read_pipeline(path: Path) -> Pipeline | None:
    """What the file says; None where there is none.

    Raises
    ------
    FormatError
        It is no pipeline of RELION.
    """
    if not path.exists():
        return None
    try:
        document = cif.read_file(str(path))
        general = document.find_block("pipeline_general")
        counter = int(general.find_value(f"{_PREFIX}JobCounter"))
        processes = document.find_block("pipeline_processes")
        is_old = processes is not None and bool(
            processes.find_loop(f"{_PREFIX}ProcessType")
        )
        found = Pipeline(dialect="relion31" if is_old else "labels", counter=counter)
        _read_tables(document, found)
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise FormatError(
            f"project: {path} cannot be read ({str(error)[:120]}), a pipeline of "
            "RELION was expected; restore it from the last job's folder"
        ) from error
    return found


def _read_tables(document: cif.Document, found: Pipeline) -> None:
    kind, status = _PROCESS_COLUMNS[found.dialect]
    columns = ("ProcessName", "ProcessAlias", kind, status)
    for name, alias, type_, state in _rows(document, "processes", columns):
        found.processes[name] = Process(
            name=name, alias=alias, type=type_, status=state
        )
    of_node = ("NodeName", _NODE_COLUMN[found.dialect])
    for name, type_ in _rows(document, "nodes", of_node):
        found.nodes[name] = type_
    for node, process in _rows(
        document, "input_edges", ("EdgeFromNode", "EdgeProcess")
    ):
        found.inputs[node, process] = None
    for process, node in _rows(document, "output_edges", ("EdgeProcess", "EdgeToNode")):
        found.outputs[process, node] = None


def _rows(
    document: cif.Document, name: str, columns: Iterable[str]
) -> Iterable[tuple[str, ...]]:
    block = document.find_block(f"pipeline_{name}")
    if block is None:
        return ()
    loops = [
        [cif.as_string(each) for each in block.find_loop(f"{_PREFIX}{column}")]
        for column in columns
    ]
    return zip(*loops, strict=True)


def write_pipeline(pipeline: Pipeline, path: Path) -> bytes:
    """Put the pipeline into the file, whole; the same content gives the same bytes."""
    version = f"\n# version {_VERSIONS[pipeline.dialect]}\n\n"
    kind, status = _PROCESS_COLUMNS[pipeline.dialect]
    processes = [
        (each.name, each.alias, each.type, each.status)
        for each in pipeline.processes.values()
    ]
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = [
        ("processes", ("ProcessName", "ProcessAlias", kind, status), processes),
        (
            "nodes",
            ("NodeName", _NODE_COLUMN[pipeline.dialect]),
            list(pipeline.nodes.items()),
        ),
        ("input_edges", ("EdgeFromNode", "EdgeProcess"), list(pipeline.inputs)),
        ("output_edges", ("EdgeProcess", "EdgeToNode"), list(pipeline.outputs)),
    ]
    text = (
        f"{version}data_pipeline_general\n\n{_PREFIX}JobCounter {pipeline.counter}\n\n"
    )
    for name, columns, rows in tables:
        if not rows:
            continue  # RELION takes a table that is missing for an empty one
        quoted = [[word(each) for each in row] for row in rows]
        shown = table(f"pipeline_{name}", columns, quoted, prefix=_PREFIX)
        text += version + shown
    content = text.encode()
    write_if_changed(path, content)
    return content


def write_if_changed(path: Path, content: bytes) -> None:
    """Put the content at the path; most messages change nothing but one table."""
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)
