"""Acquisitions: the runs of tasks. How one ended is written once."""

import statistics
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Response
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from temdb.models import (
    AcquisitionCreate,
    AcquisitionResponse,
    AcquisitionUpdate,
)

from em_platform.temdb.routes.answers import (
    Db,
    change,
    has,
    in_use,
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
    now,
)

router = APIRouter(tags=["acquisitions"])


class NewAcquisition(AcquisitionCreate):  # type: ignore[misc]
    """As the published model, which takes only a number for what is replaced."""

    replaces_acquisition_id: int | str | None = None


class ChangedAcquisition(AcquisitionUpdate):  # type: ignore[misc]
    """As the published model, with the same addition."""

    replaces_acquisition_id: int | str | None = None


@router.post("/acquisitions", response_model=AcquisitionResponse, status_code=201)
def create_acquisition(told: NewAcquisition, db: Db) -> Acquisition:
    """A new run, in flight."""
    with db.writing() as session:
        refuse_taken(session, Acquisition, told.acquisition_id)
        task = one(session, Task, told.acquisition_task_id)
        one(session, Microscope, told.microscope_id)
        if told.lc_id is not None:
            one(session, LensCorrection, told.lc_id)
        _check_region(session, told, task)
        given = values_of(told, Acquisition) | {
            "dataset_id": _dataset_id(session, told.dataset_id),
            "replaces_acquisition_id": _replaced(session, told),
            "specimen_id": task.specimen_id,
        }
        made = Acquisition(**given)
        session.add(made)
    return made


@router.get("/acquisitions/{acquisition_id}", response_model=AcquisitionResponse)
def get_acquisition(acquisition_id: str, db: Db) -> Acquisition:
    """One run."""
    with db.reading() as session:
        return one(session, Acquisition, acquisition_id)


@router.patch("/acquisitions/{acquisition_id}", response_model=AcquisitionResponse)
def update_acquisition(
    acquisition_id: str, told: ChangedAcquisition, db: Db
) -> Acquisition:
    """A run with some fields changed; 409 where its status is there already."""
    _check_end(told)
    by = told.updated_by
    with db.writing() as session:
        found = one(session, Acquisition, acquisition_id)
        if told.status is not None:
            _end(session, found, told)
        if told.replaces_acquisition_id is not None:
            told.replaces_acquisition_id = _replaced(session, told)
        change(found, told)
        if told.status is not None:
            _roll_up(session, found)
        if "qc_state" in told.model_fields_set:
            found.qc_state_updated_at, found.qc_state_updated_by = now(), by
        if "transfer_state" in told.model_fields_set:
            found.transfer_state_updated_at = now()
            found.transfer_state_updated_by = by
    return found


@router.delete("/acquisitions/{acquisition_id}", status_code=204)
def delete_acquisition(acquisition_id: str, db: Db) -> Response:
    """Remove a run without tiles that no other replaces."""
    with db.writing() as session:
        found = one(session, Acquisition, acquisition_id)
        if has(session, Tile.run_id == found.run_id):
            raise in_use("acquisition", acquisition_id, "tiles")
        if has(session, Acquisition.replaces_acquisition_id == acquisition_id):
            raise in_use("acquisition", acquisition_id, "a successor")
        session.delete(found)
    return Response(status_code=204)


def _check_end(told: ChangedAcquisition) -> None:
    given: set[str] = told.model_fields_set
    if "end_time" in given and told.status is None:
        raise wrong(422, "end_time comes only together with a status")


def _end(session: Session, run: Acquisition, told: ChangedAcquisition) -> None:
    """Write the status, unless somebody has: compared and set in one statement."""
    ended_at = told.end_time or now()
    written = session.execute(
        update(Acquisition)
        .where(Acquisition.id == run.id, Acquisition.status.is_(None))
        .values(status=told.status, end_time=ended_at)
        .returning(Acquisition.id)
    ).one_or_none()
    if written is None:
        session.refresh(run)
        raise wrong(
            409,
            f"acquisition {run.acquisition_id} has ended as {run.status}, which is "
            f"written once; it cannot become {told.status}",
        )
    session.refresh(run)
    told.end_time = ended_at


def _roll_up(session: Session, run: Acquisition) -> None:
    """What the tiles say together, where nobody has said it."""
    columns = Tile.focus_score, Tile.row_match_quality, Tile.col_match_quality
    of_run = Tile.dataset_id == run.dataset_id, Tile.run_id == run.run_id
    rows = session.execute(select(*columns).where(*of_run)).all()
    if not rows:
        return
    matches = [quality for row in rows for quality in row[1:] if quality is not None]
    if run.tile_count is None:
        run.tile_count = len(rows)
    if run.avg_focus_score is None:
        run.avg_focus_score = statistics.fmean(row[0] for row in rows)
    if run.median_match_quality is None and matches:
        run.median_match_quality = statistics.median(matches)


def _check_region(session: Session, told: NewAcquisition, task: Task) -> None:
    if told.kind == "montage" and not (told.roi_id and task.specimen_id):
        raise wrong(
            422,
            "a run of kind montage needs a roi_id and a task of a specimen; only those "
            "of kind lens_correction go without",
        )
    if told.roi_id is None:
        return
    one(session, Roi, told.roi_id)
    if task.roi_id != told.roi_id:
        raise wrong(
            422,
            f"acquisition task {task.task_id} is to image {task.roi_id}, not "
            f"{told.roi_id}",
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
    session: Session, told: NewAcquisition | ChangedAcquisition
) -> str | None:
    """The id of the run that is replaced: given as it is, or as its number."""
    name: Any = told.replaces_acquisition_id
    if name is None:
        return None
    key = Acquisition.id if isinstance(name, int) else Acquisition.acquisition_id
    found = session.scalars(select(Acquisition).where(key == name)).one_or_none()
    if found is None:
        raise missing("acquisition", name)
    return found.acquisition_id
