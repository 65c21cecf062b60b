"""What the scope is to do, and why; the worst of all holds until it is lifted."""

import logging
from enum import StrEnum
from pathlib import Path

from pydantic import AliasChoices, Field, ValidationError

from em_platform.errors import StorageError
from em_platform.model import Model
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)


class Status(StrEnum):
    """The statuses of `qc.status`, from good to worst."""

    GOOD = "GOOD"
    STOP_AT_END = "STOP_AT_END"
    STOP_NOW = "STOP_NOW"


_RANK = {status: rank for rank, status in enumerate(Status)}


class Verdict(Model):
    """The content of `qc.status`; a stop has a sentence for the operator."""

    status: Status = Status.GOOD
    reason: str = ""

    def worse(self, other: "Verdict") -> "Verdict":
        """The worse of both; the earlier reason stays where they are equal."""
        return other if _RANK[other.status] > _RANK[self.status] else self


GOOD = Verdict()


class State(Model):
    """The verdict, who brought it about, and which messages of others were adopted.

    `<home>/qc/state.json`: it outlives the process also where no recorder runs.
    """

    verdict: Verdict = Verdict()
    by: str = ""
    adopted: tuple[str, ...] = Field(
        default=(), validation_alias=AliasChoices("adopted", "heard")
    )


def read_state(folder: Path) -> State:
    """As it was last written; GOOD where it never was."""
    path = folder / "state.json"
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return State()
    except (ValidationError, OSError) as error:
        log.error("qc: %s cannot be read (%s); starting without it", path, error)
        return State()


def write_state(folder: Path, state: State) -> None:
    """Keep the verdict; where the disk is full that is logged, and it is published."""
    try:
        write_bytes(folder / "state.json", state.model_dump_json().encode())
    except StorageError as error:
        log.error("%s", error)
