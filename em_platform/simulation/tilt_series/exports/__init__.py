"""Finished stacks as projects of other programs: pure files, none of them is run."""

from collections.abc import Callable, Sequence
from pathlib import Path

from em_platform.simulation.tilt_series.data_set import stack_names
from em_platform.simulation.tilt_series.exports.dynamo import dynamo, motl
from em_platform.simulation.tilt_series.exports.eman2 import eman2
from em_platform.simulation.tilt_series.exports.finished import (
    Finished,
    read_finished,
)
from em_platform.simulation.tilt_series.exports.imod import imod
from em_platform.simulation.tilt_series.exports.project import Entry, write_project
from em_platform.simulation.tilt_series.exports.relion5 import relion5
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.truth import TRUTH
from em_platform.storage import guard
from em_platform.storage.lease import one_writer

EXPORTS: dict[str, Callable[[Sequence[Finished], Path], dict[str, Entry]]] = {
    "dynamo": dynamo,
    "eman2": eman2,
    "imod": imod,
    "motl": motl,
    "relion5": relion5,
}
"""Name -> the files of its project, by their paths in it."""

EXPORTED = "exports"
"""Folder of the projects in the output."""


def export(kind: str, stacks: Sequence[Path], target: Path) -> Path:
    """Write the project of a kind for these stacks' folders; the same bytes each time.

    Raises
    ------
    FormatError
        A folder is no finished stack.
    OutputRefused
        `target` holds what this program did not make, or a file of it was changed.
    OutputBusy
        Another process writes it.
    StorageError
        It could not be written.
    """
    finished = [read_finished(folder) for folder in stacks]
    files = EXPORTS[kind](finished, target)
    what = f"{kind} project"
    with one_writer(str(target), work=f"a {what}"):
        with guard.whole_folder(target, what) as own:
            write_project(own, files, target=target)
    return target


def export_all(plan: Plan, output: Path, kinds: Sequence[str]) -> list[Path]:
    """Projects of all stacks of a plan that stand in `output`, in `output/exports`.

    Raises
    ------
    PlatformError
        As `export`.
    """
    folders = [output / name for name in stack_names(plan)]
    finished = [folder for folder in folders if (folder / TRUTH).is_file()]
    return [export(kind, finished, output / EXPORTED / kind) for kind in kinds]
