"""A run that TEM DB has, and the states of it."""

from typing import Literal

from em_platform.model import Model

# The words of temdb-models 3.0.0.
RunStatus = Literal["complete", "aborted", "failed"]
TransferState = Literal["not_started", "in_progress", "complete", "error"]
QcState = Literal["pending", "qc_pass", "qc_fail", "needs_review"]
TaskState = Literal["pending", "acquired", "complete", "failed", "needs_review"]


class KnownRun(Model):
    """What TEM DB knows of one acquisition; `places` are its storage locations."""

    acquisition_id: str
    montage_id: str
    task_id: str
    status: RunStatus | None
    qc_state: QcState
    qc_by: str | None
    transfer_state: TransferState
    replaces_acquisition_id: str | None
    tile_count: int
    places: tuple[str, ...]
