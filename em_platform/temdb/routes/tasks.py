"""Acquisition tasks: plans, whose state follows from their runs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query
from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.orm import Session
from temdb.models import (
    AcquisitionResponse,
    AcquisitionTaskCreate,
    AcquisitionTaskResponse,
    AcquisitionTaskUpdate,
)

from em_platform.temdb.columns import now, uuid7
from em_platform.temdb.routes.entities import Entity, add_entity
from em_platform.temdb.routes.rows import (
    Db,
    Limit,
    Skip,
    Values,
    one,
    page,
    refuse_taken,
    values_of,
    wrong,
)
from em_platform.temdb.tables import Acquisition, Roi, Section, Task

router = APIRouter(tags=["tasks"])


def task_state(runs: Sequence[Acquisition]) -> str:
    """The state of a task: pending, acquired, complete, failed or needs_review."""
    if not runs:
        return "pending"
    # First: one good run is enough, whatever came before it or after.
    if any(run.qc_state == "qc_pass" for run in runs):
        return "complete"
    if all(run.status in ("failed", "aborted") for run in runs):
        return "failed"
    newest = max(runs, key=lambda run: (run.start_time, run.id))
    if newest.qc_state in ("qc_fail", "needs_review"):
        return "needs_review"
    return "acquired"


@router.get("/acquisition-tasks")
def list_tasks(
    db: Db,
    specimen_id: str | None = None,
    block_id: str | None = None,
    roi_id: str | None = None,
    kind: str | None = None,
    media_id: str | None = None,
    task_group_id: UUID | None = None,
    current_only: bool = True,
    skip_destroyed: bool = True,
    skip_completed: bool = True,
    imageable: bool = False,
    loaded_media_id: Annotated[list[str] | None, Query()] = None,
    skip: Skip = 0,
    limit: Limit = 100,
) -> list[AcquisitionTaskResponse]:
    """Tasks; by default those that are still to be done."""
    query = (
        select(Task)
        .outerjoin(Roi, Roi.roi_id == Task.roi_id)
        .outerjoin(Section, Section.section_id == Roi.section_id)
    )
    if current_only or imageable:
        query = query.where(Task.superseded_by.is_(None))
    if skip_destroyed or imageable:
        # `!=` would drop tasks without a section, as NULL is never unequal.
        query = query.where(Section.condition.is_distinct_from("destroyed"))
    if skip_completed:
        # A run that waits for its verdict counts: it may well be good.
        query = query.where(~_has_run(_is_done("pending", "qc_pass")))
    if imageable:
        # Nor what is being imaged, nor what a person has to look at first.
        done = _is_done("pending", "qc_pass", "needs_review")
        query = query.where(~_has_run(or_(Acquisition.status.is_(None), done)))
    if imageable and loaded_media_id:
        # A lens can be imaged on any medium.
        loaded = Roi.substrate_media_id.in_(loaded_media_id)
        query = query.where(or_(Task.kind == "lens_correction", loaded))
    # A group may be a tilt series, which is imaged by its angles.
    order = (Task.id,) if task_group_id is None else (Task.tilt_angle_deg, Task.id)
    with db.reading() as session:
        tasks = page(
            session,
            query.order_by(*order),
            skip=skip,
            limit=limit,
            wanted=[
                (Task.specimen_id, specimen_id),
                (Task.block_id, block_id),
                (Task.roi_id, roi_id),
                (Task.kind, kind),
                (Task.task_group_id, task_group_id),
                (Roi.substrate_media_id, media_id),
            ],
        )
        return shown(session, tasks)


@router.post("/acquisition-tasks/batch", status_code=201)
def create_tasks(
    tasks: Annotated[list[AcquisitionTaskCreate], Body()],
    db: Db,
    group: Annotated[bool, Body()] = False,
) -> list[AcquisitionTaskResponse]:
    """Many new tasks, all or none; with `group` they share a new group id."""
    # Beside `entities.py`: its batch is a plain list, without a flag.
    shared = {"task_group_id": uuid7()} if group else {}
    with db.writing() as session:
        made = [TASK.created(session, each, **shared) for each in tasks]
        return shown(session, made)


@router.get(
    "/acquisition-tasks/{task_id}/acquisitions",
    response_model=list[AcquisitionResponse],
)
def list_acquisitions_of_task(
    task_id: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> Sequence[Acquisition]:
    """The runs of one task, the oldest first."""
    with db.reading() as session:
        one(session, Task, task_id)
        return page(
            session,
            select(Acquisition).order_by(Acquisition.start_time, Acquisition.id),
            skip=skip,
            limit=limit,
            wanted=[(Acquisition.acquisition_task_id, task_id)],
        )


@router.post("/acquisition-tasks/{task_id}/supersede", status_code=201)
def supersede_task(
    task_id: str, new: AcquisitionTaskCreate, db: Db
) -> AcquisitionTaskResponse:
    """A new task in place of this one, whose runs stay with it."""
    with db.writing() as session:
        old = one(session, Task, task_id)
        if old.superseded_by is not None:
            raise wrong(
                409,
                f"acquisition task {task_id} is superseded by {old.superseded_by} "
                "already; supersede that one",
            )
        made = TASK.created(session, new)
        old.superseded_by = made.task_id
        old.updated_at = now()
        return shown(session, [made])[0]


def shown(session: Session, tasks: Sequence[Task]) -> list[AcquisitionTaskResponse]:
    """The answers of tasks, each with the state that its runs give it."""
    names = [task.task_id for task in tasks]
    runs = defaultdict(list)
    if names:
        # One question for the whole page, not one a task.
        query = select(Acquisition).where(Acquisition.acquisition_task_id.in_(names))
        for run in session.scalars(query):
            runs[run.acquisition_task_id].append(run)
    answers = [AcquisitionTaskResponse.model_validate(task) for task in tasks]
    for answer in answers:
        answer.status = task_state(runs[answer.task_id])
    return answers


def _values(session: Session, new: AcquisitionTaskCreate) -> Values:
    refuse_taken(session, Task, new.task_id)
    lineage = (new.specimen_id, new.block_id)
    if new.roi_id is not None:
        roi = one(session, Roi, new.roi_id)
        if lineage != (roi.specimen_id, roi.block_id):
            raise wrong(
                422,
                f"ROI {new.roi_id} is of block {roi.block_id} of specimen "
                f"{roi.specimen_id}, not of {new.block_id} of {new.specimen_id}",
            )
    elif any(lineage):
        raise wrong(422, "specimen_id, block_id and roi_id are given all or none")
    return values_of(new, Task)


def _is_done(*qc_states: str) -> ColumnElement[bool]:
    return and_(Acquisition.status == "complete", Acquisition.qc_state.in_(qc_states))


def _has_run(such: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(Acquisition.acquisition_task_id == Task.task_id, such)


TASK = Entity(
    row=Task,
    answer=AcquisitionTaskResponse,
    collection="/acquisition-tasks",
    item="/acquisition-tasks/{task_id}",
    new=AcquisitionTaskCreate,
    update=AcquisitionTaskUpdate,
    values=_values,
    shown=shown,
    used_by={
        "acquisitions": {"task_id": Acquisition.acquisition_task_id},
        "a predecessor": {"task_id": Task.superseded_by},
    },
)
add_entity(router, TASK)
