"""What the scope is to do, and why; the worst of all holds until it is lifted."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from em_platform.config import Settings
from em_platform.errors import MessagingError
from em_platform.messaging.bus import Bus
from em_platform.model import Check, Model, failed_errors
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


GOOD = Verdict()  # Frozen, so that all can share it


class State(Model):
    """The verdict, who brought it about, and which messages of others were adopted.

    `<home>/qc/state.json`: it outlives the process also where no recorder runs.
    """

    verdict: Verdict = Verdict()
    by: str = ""
    adopted: tuple[str, ...] = ()


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
    """Keep the verdict; StorageError where the disk does not take it."""
    write_bytes(folder / "state.json", state.model_dump_json().encode())


SERVICE = "dagster"
"""As which the checks speak; the live QC adopts what others say."""

# A check of Dagster must not wait for a microscope that is switched off.
_CONNECT_S = 3.0
_NAMED = 3  # The reason stands in one line of the operator's page


def report_checks(
    settings: Settings,
    acquisition_id: str,
    ended_at: datetime | None,
    checks: Iterable[Check],
) -> bool:
    """Stop the scope at the end where a check of a fresh montage failed; whether sent.

    Only checks of severity ERROR count, and only for a montage that ended less than
    `acquisition.qc.feedback_s` ago: an old one stops nobody. Without a broker it is
    logged; this never raises an error of the messaging.
    """
    reason = stop_reason(acquisition_id, checks)
    if not reason or not _is_fresh(ended_at, settings.acquisition.qc.feedback_s):
        return False
    try:
        with Bus(settings.broker, SERVICE, send_timeout_s=_CONNECT_S) as bus:
            bus.connect(_CONNECT_S)
            bus.publish("qc.status", status="STOP_AT_END", reason=reason)
            bus.flush(_CONNECT_S)  # else nobody knows whether the broker has it
    except MessagingError as error:
        log.warning("qc: the microscope did not get the stop at the end: %s", error)
        return False
    log.info("qc: asked the microscope to stop at the end: %s", reason)
    return True


def stop_reason(acquisition_id: str, checks: Iterable[Check]) -> str:
    """The sentence for the operator; empty where no check of severity ERROR failed."""
    failed = failed_errors(checks)
    if not failed:
        return ""
    more = len(failed) - _NAMED
    sentences = " ".join(f"{check.name}: {check.sentence}" for check in failed[:_NAMED])
    rest = f" And {more} more." if more > 0 else ""
    return f"Montage {acquisition_id} failed its checks. {sentences}{rest}"


def _is_fresh(ended_at: datetime | None, limit_s: float) -> bool:
    if ended_at is None:
        return False
    if ended_at.tzinfo is None:
        ended_at = ended_at.replace(tzinfo=UTC)
    return datetime.now(UTC) - ended_at < timedelta(seconds=limit_s)
