"""Regions of interest: named by their place, nested.

`<specimen>.<block>.<section>.<medium>.ROI001`, a part of it `....ROI001.ROI0001`.
"""

from collections.abc import Sequence

from fastapi import APIRouter
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased
from temdb.models import ROICreate, ROIResponse, ROIUpdate

from em_platform.temdb.columns import Document, now
from em_platform.temdb.routes.entities import Entity, Listing, add_entity
from em_platform.temdb.routes.rows import (
    Db,
    Limit,
    Skip,
    Values,
    missing,
    one,
    page,
    refuse_taken,
    wrong,
)
from em_platform.temdb.tables import Acquisition, Roi, Section, Substrate, Task

router = APIRouter(tags=["ROIs"])

_MOST_DIGITS = 18  # of a number of 64 bits


def _values(session: Session, new: ROICreate) -> Values:
    """The id of a region is made of its parents' ids and its number."""
    section = one(session, Section, new.section_id)
    lineage = (section.specimen_id, section.block_id)
    if (new.specimen_id, new.block_id) != lineage:
        raise wrong(
            422,
            f"section {new.section_id} is of block {section.block_id} of specimen "
            f"{section.specimen_id}, not of {new.block_id} of {new.specimen_id}",
        )
    one(session, Substrate, new.substrate_media_id)
    parent = one(session, Roi, new.parent_roi_id) if new.parent_roi_id else None
    if parent is None:
        stem = ".".join((*lineage, new.section_id, new.substrate_media_id))
        roi_id, level = f"{stem}.ROI{new.roi_number:03d}", 1
    else:
        roi_id = f"{parent.roi_id}.ROI{new.roi_number:04d}"
        level = parent.hierarchy_level + 1
    refuse_taken(session, Roi, roi_id)
    given: Values = new.model_dump(exclude={"created_at", "payload"})
    return given | {
        "roi_id": roi_id,
        "hierarchy_level": level,
        "created_at": new.created_at or now(),
        "roi_payload": new.payload.model_dump(mode="json"),
    }


def _find(session: Session, *, roi_id: str) -> Roi:
    """By id, or by number: the published client types it as a number."""
    if not roi_id.isdecimal() or len(roi_id) > _MOST_DIGITS:
        return one(session, Roi, roi_id)
    found = session.get(Roi, int(roi_id))
    if found is None:
        raise missing("ROI", roi_id)
    return found


def _answers(session: Session, rois: Sequence[Roi]) -> list[ROIResponse]:
    names = [roi.roi_id for roi in rois]
    # One question for the whole page, not one a region.
    query = select(Roi.parent_roi_id).where(Roi.parent_roi_id.in_(names)).distinct()
    parents = set(session.scalars(query)) if names else set()
    answers = [ROIResponse.model_validate(roi) for roi in rois]
    for answer in answers:
        answer.is_parent = answer.roi_id in parents
    return answers


def _is_parent(wanted: bool) -> ColumnElement[bool]:
    # By another name, since the table is compared with itself.
    child = aliased(Roi)
    found = select(child.id).where(child.parent_roi_id == Roi.roi_id).exists()
    return found if wanted else ~found


def _cut_in(cutting_session_id: str) -> ColumnElement[bool]:
    cut = select(Section.section_id)
    return Roi.section_id.in_(
        cut.where(Section.cutting_session_id == cutting_session_id)
    )


def _change(session: Session, found: Roi, update: ROIUpdate) -> None:
    """Only the fields of the payload that the update names."""
    given = update.payload.model_dump(mode="json", exclude_unset=True)
    if not given:
        raise wrong(400, "the update names no field; say what is to change")
    # A new dict: SQLAlchemy does not see a change within a JSON value.
    found.roi_payload = {**(found.roi_payload or {}), **given}
    found.updated_at = now()


ROI = Entity(
    row=Roi,
    answer=ROIResponse,
    collection="/rois",
    item="/rois/{roi_id}",
    new=ROICreate,
    update=ROIUpdate,
    find=_find,
    values=_values,
    changed=_change,
    has_batch=True,
    shown=_answers,
    used_by={
        "parts": {"roi_id": Roi.parent_roi_id},
        "tasks": {"roi_id": Task.roi_id},
        "acquisitions": {"roi_id": Acquisition.roi_id},
    },
    order=[Roi.id],
    lists=[
        Listing(
            "list_rois",
            "/rois",
            "Regions, in the order in which they came.",
            {
                "specimen_id": Roi.specimen_id,
                "block_id": Roi.block_id,
                "cutting_session_id": (str, _cut_in),
                "section_id": Roi.section_id,
                "is_parent_roi": (bool, _is_parent),
            },
        ),
        Listing(
            "list_rois_of_section",
            "/sections/{section_id}/rois",
            "The regions of one section; 404 where there is no such section.",
            {"section_id": Roi.section_id},
            within=lambda session, section_id: one(session, Section, section_id),
        ),
    ],
)
add_entity(router, ROI)


@router.get("/rois/{roi_id}/hierarchy")
def get_hierarchy(roi_id: str, db: Db) -> Document:
    """The way from the top region down to this one."""
    path: list[dict[str, str | int | None]] = []
    with db.reading() as session:
        found = _find(session, roi_id=roi_id)
        at: Roi | None = found
        while at is not None:
            # From below upwards: a region knows only its parent.
            path.insert(
                0,
                {
                    "roi_id": at.roi_id,
                    "hierarchy_level": at.hierarchy_level,
                    "section_id": at.section_id,
                },
            )
            parent = at.parent_roi_id
            at = one(session, Roi, parent) if parent is not None else None
    return {
        "roi_id": found.roi_id,
        "hierarchy_path": path,
        "total_levels": len(path),
    }


@router.get("/rois/{roi_id}/children")
def get_children(roi_id: str, db: Db, skip: Skip = 0, limit: Limit = 10) -> Document:
    """The parts of one region, one level below it."""
    with db.reading() as session:
        parent = _find(session, roi_id=roi_id)
        below = Roi.parent_roi_id == parent.roi_id
        total = session.scalar(select(func.count(Roi.id)).where(below)) or 0
        query = select(Roi).where(below).order_by(Roi.roi_id)
        children = _answers(session, page(session, query, skip=skip, limit=limit))
    return {
        "children": children,
        "metadata": {
            "skip": skip,
            "limit": limit,
            "total_children": total,
            "has_more": skip + limit < total,
        },
    }
