"""Acquisitions: the runs of tasks. How one ended is written once."""

import statistics
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy import update as sql_update
from sqlalchemy.orm import Session
from temdb.models import (
    AcquisitionCreate,
    AcquisitionResponse,
    AcquisitionUpdate,
)

from em_platform.temdb.columns import now
from em_platform.temdb.routes.entities import Entity, add_entity
from em_platform.temdb.routes.rows import (
    Values,
    change,
    missing,
    one,
    refuse_taken,
    values_of,
    wrong,
)
from em_platform.temdb.tables import (
    Acquisition,
    Dataset,
    LensCorrection,
    Microscope,
    Roi,
    Task,
    Tile,
)

router = APIRouter(tags=["acquisitions"])


class NewAcquisition(AcquisitionCreate):  # type: ignore[misc]
    """As the published model, which takes only a number for what is replaced."""

    replaces_acquisition_id: int | str | None = None


class ChangedAcquisition(AcquisitionUpdate):  # type: ignore[misc]
    """As the published model, with the same addition."""

    replaces_acquisition_id: int | str | None = None


def _values(session: Session, new: NewAcquisition) -> Values:
    """A new run, in flight."""
    refuse_taken(session, Acquisition, new.acquisition_id)
    task = one(session, Task, new.acquisition_task_id)
    one(session, Microscope, new.microscope_id)
    if new.lc_id is not None:
        one(session, LensCorrection, new.lc_id)
    _check_region(session, new, task)
    return values_of(new, Acquisition) | {
        "dataset_id": _dataset_id(session, new.dataset_id),
        "replaces_acquisition_id": _replaced(session, new),
        "specimen_id": task.specimen_id,
    }


def _change(session: Session, found: Acquisition, update: ChangedAcquisition) -> None:
    """409 where its status is there already."""
    # The table's own rule: an end and a status come together.
    if "end_time" in update.model_fields_set and update.status is None:
        raise wrong(422, "end_time comes only together with a status")
    by = update.updated_by
    # Before `change`: the new status would be flushed before it is compared.
    if update.status is not None:
        _end(session, found, update)
    if update.replaces_acquisition_id is not None:
        update.replaces_acquisition_id = _replaced(session, update)
    change(found, update)
    if update.status is not None:
        # After `change`: what the client has filled stays.
        _roll_up(session, found)
    if "qc_state" in update.model_fields_set:
        found.qc_state_updated_at, found.qc_state_updated_by = now(), by
    if "transfer_state" in update.model_fields_set:
        found.transfer_state_updated_at = now()
        found.transfer_state_updated_by = by


def _end(session: Session, run: Acquisition, update: ChangedAcquisition) -> None:
    """Write the status, unless another has: compared and set in one statement."""
    ended_at = update.end_time or now()
    written = session.execute(
        sql_update(Acquisition)
        .where(Acquisition.id == run.id, Acquisition.status.is_(None))
        .values(status=update.status, end_time=ended_at)
        .returning(Acquisition.id)
    ).one_or_none()
    if written is None:
        session.refresh(run)
        raise wrong(
            409,
            f"acquisition {run.acquisition_id} has ended as {run.status}, which is "
            f"written once; it cannot become {update.status}",
        )
    # The statement went past the session's copy of the row.
    session.refresh(run)
    # `change` writes each field that is set, and would put back an empty end.
    update.end_time = ended_at


def _roll_up(session: Session, run: Acquisition) -> None:
    """Sum up the tiles in the columns that no client has filled."""
    columns = Tile.focus_score, Tile.row_match_quality, Tile.col_match_quality
    of_run = Tile.dataset_id == run.dataset_id, Tile.run_id == run.run_id
    rows = session.execute(select(*columns).where(*of_run)).all()
    if not rows:
        return
    # Here and not in SQL: SQLite has no median.
    matches = [quality for row in rows for quality in row[1:] if quality is not None]
    if run.tile_count is None:
        run.tile_count = len(rows)
    if run.avg_focus_score is None:
        run.avg_focus_score = statistics.fmean(row[0] for row in rows)
    if run.median_match_quality is None and matches:
        run.median_match_quality = statistics.median(matches)


def _check_region(session: Session, new: NewAcquisition, task: Task) -> None:
    if new.kind == "montage" and not (new.roi_id and task.specimen_id):
        raise wrong(
            422,
            "a run of kind montage needs a roi_id and a task of a specimen; only those "
            "of kind lens_correction go without",
        )
    if new.roi_id is None:
        return
    one(session, Roi, new.roi_id)
    if task.roi_id != new.roi_id:
        raise wrong(
            422,
            f"acquisition task {task.task_id} is to image {task.roi_id}, not "
            f"{new.roi_id}",
        )


def _dataset_id(session: Session, text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        name = UUID(text)
    except ValueError as error:
        raise wrong(422, f"dataset_id {text!r} is no UUID") from error
    return one(session, Dataset, name).dataset_id


def _replaced(
    session: Session, request: NewAcquisition | ChangedAcquisition
) -> str | None:
    """The id of the run that is replaced: given as it is, or as its number."""
    name: Any = request.replaces_acquisition_id
    if name is None:
        return None
    key = Acquisition.id if isinstance(name, int) else Acquisition.acquisition_id
    found = session.scalars(select(Acquisition).where(key == name)).one_or_none()
    if found is None:
        raise missing("acquisition", name)
    return found.acquisition_id


ACQUISITION = Entity(
    row=Acquisition,
    answer=AcquisitionResponse,
    collection="/acquisitions",
    item="/acquisitions/{acquisition_id}",
    new=NewAcquisition,
    update=ChangedAcquisition,
    values=_values,
    changed=_change,
    used_by={
        "tiles": {"run_id": Tile.run_id},
        "a successor": {"acquisition_id": Acquisition.replaces_acquisition_id},
    },
)
add_entity(router, ACQUISITION)
