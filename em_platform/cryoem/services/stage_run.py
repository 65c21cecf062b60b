"""A stage run by a service: its files stand where the message wants them, once.

Beside them lies a note of what made them. With it a message that comes again computes
nothing, and files that this program did not make are never replaced.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from em_platform.cryoem.project.jobs import JOB, check_inside
from em_platform.cryoem.stage import RESULT, StageParameters
from em_platform.cryoem.stages import load_stage
from em_platform.errors import DataError, MessageRejected, OutputRefused, StorageError
from em_platform.model.base import Foreign
from em_platform.storage.atomic import beside, remove_leftovers_of, write_bytes
from em_platform.storage.guard import FOLDER_MARK

StageOutputs = Mapping[str, tuple[Any, Path]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPath:
    """A file in a job of a project."""

    project: Path
    folder: str
    number: int
    rest: Path

    def other(self, folder: str, number: int, *, suffix: str | None = None) -> Path:
        """The same file in another job; OutputRefused where a link leads away."""
        rest = self.rest if suffix is None else self.rest.with_suffix(suffix)
        path = self.project / folder / f"job{number:03}" / rest
        self.checked(path.parent)
        return path

    def checked(self, folder: Path) -> Path:
        """The folder; OutputRefused where a link leads out of the project."""
        check_inside(folder, self.project)
        return folder


def job_path(path: Path) -> JobPath:
    """The job that a path lies in.

    Raises
    ------
    MessageRejected
        It lies in none.
    OutputRefused
        A link leads out of the project.
    """
    found = JOB.fullmatch(str(path))
    if found is None or found["rest"] is None:
        raise MessageRejected(
            f"message: {path} lies in no job, .../MotionCorr/job002/... was expected; "
            "correct the path"
        )
    check_inside(path.parent, Path(found["project"]))
    return JobPath(
        project=Path(found["project"]),
        folder=found["folder"],
        number=int(found["number"]),
        rest=Path(found["rest"]),
    )


def run_stage(
    name: str,
    parameters: StageParameters,
    *,
    folder: Path,
    stem: str,
    takes: Path,
    made: StageOutputs | None = None,
) -> tuple[Any, bool]:
    """Run a stage for one input; its result, and whether it stood there already.

    Parameters
    ----------
    folder
        Where its files are to lie, with those of other inputs.
    stem
        Names the input among them.
    takes
        The input: when it changes, so does the result.
    made
        Results that are there; one of them is taken, its files are linked to.

    Raises
    ------
    OutputRefused
        A file of the same name was not made by this program.
    DataError
        `made` has no result of this stage.
    """
    if made is not None:
        return _adopted(name, made, folder), True
    stage = load_stage(name)
    note = folder / f".{stem}.{name}.json"
    digest = _digest(parameters, takes)
    known = _read_note(note)
    if known.digest == digest and known.whole:
        if all((folder / each).is_file() for each in known.files):
            # What is refused is of an older version.
            with suppress(ValidationError):
                return stage.Result.model_validate(known.result), True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # What a killed process was making is of no use: a stage begins anew.
        remove_leftovers_of(folder / f"{stem}.{name}")
        remove_leftovers_of(note)
        own = beside(folder / f"{stem}.{name}")
        own.mkdir()
        try:
            result = stage.run(parameters, own)
            files = tuple(sorted(each.name for each in own.iterdir()))
            owned = known.files + known.were
            _refuse_foreign(folder, files, owned)
            made_so = _Note(
                digest=digest, files=files, result=result.model_dump(mode="json")
            )
            # Before they stand there: one that is killed in between owns them still.
            _write_note(note, made_so.model_copy(update={"were": owned}))
            for each in files:
                (own / each).replace(folder / each)
        finally:
            shutil.rmtree(own, ignore_errors=True)
        _write_note(note, made_so.model_copy(update={"whole": True}))
    except OSError as error:
        raise StorageError(
            f"{name}: {folder} could not be written ({error.strerror or error}); free "
            "space or check access, then send the message again"
        ) from error
    return result, False


def link(path: Path, target: Path) -> None:
    """Make `path` lead to a file that lies elsewhere.

    Raises
    ------
    OutputRefused
        Something else is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target)
    except FileExistsError as error:
        if path.is_symlink() and path.readlink() == target:
            return
        raise OutputRefused(
            f"output: {path} does not lead to {target}, a free name was expected; give "
            "the job another number, or move the file away"
        ) from error


def _adopted(name: str, made: StageOutputs, folder: Path) -> Any:
    if name not in made:
        raise DataError(
            f"{name}: found no result among {', '.join(made)}, an earlier one "
            "was expected; run the stage first"
        )
    result, source = made[name]
    for each in sorted(source.iterdir()):
        # Notes of how the folder was made concern that folder alone.
        if each.is_file() and each.name not in (RESULT, FOLDER_MARK):
            link(folder / each.name, each)
    return result


def _digest(parameters: StageParameters, takes: Path) -> str:
    try:
        stat = takes.stat()
        of_input = [stat.st_size, stat.st_mtime_ns]
    except OSError:
        of_input = []  # the stage says what is wrong with it
    content = json.dumps([parameters.model_dump(mode="json"), of_input])
    return hashlib.sha256(content.encode()).hexdigest()


class _Note(Foreign):
    """What made the files of an input, which are all there where it is `whole`."""

    digest: str = ""
    files: tuple[str, ...] = ()
    result: JsonValue = None
    whole: bool = False
    were: tuple[str, ...] = ()
    """Files of an earlier run."""


def _read_note(path: Path) -> _Note:
    try:
        return _Note.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return _Note()


def _write_note(path: Path, note: _Note) -> None:
    write_bytes(path, note.model_dump_json().encode())


def _refuse_foreign(
    folder: Path, files: tuple[str, ...], owned: tuple[str, ...]
) -> None:
    for name in files:
        if name not in owned and os.path.lexists(folder / name):
            raise OutputRefused(
                f"output: {folder / name} was not made by em-platform, a free name was "
                "expected; give the job another number, or move the file away"
            )
