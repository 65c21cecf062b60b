"""Regions of interest: named by where they lie, nested.

`<specimen>.<block>.<section>.<medium>.ROI001`, a part of it `....ROI001.ROI0001`.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased
from temdb.models import ROICreate, ROIResponse, ROIUpdate

from em_platform.temdb.routes.answers import (
    Db,
    Limit,
    Skip,
    has,
    in_use,
    missing,
    one,
    page,
    refuse_taken,
    wrong,
)
from em_platform.temdb.tables import Acquisition, Roi, Section, Substrate, Task, now

router = APIRouter(tags=["ROIs"])


@router.get("/rois")
def list_rois(
    db: Db,
    specimen_id: str | None = None,
    block_id: str | None = None,
    cutting_session_id: str | None = None,
    section_id: str | None = None,
    is_parent_roi: bool | None = None,
    skip: Skip = 0,
    limit: Limit = 100,
) -> list[ROIResponse]:
    """Regions, in the order in which they came."""
    query = select(Roi).order_by(Roi.id)
    if cutting_session_id is not None:
        query = query.join(Section, Section.section_id == Roi.section_id)
        query = query.where(Section.cutting_session_id == cutting_session_id)
    if is_parent_roi is not None:
        child = aliased(Roi)
        is_parent = select(child.id).where(child.parent_roi_id == Roi.roi_id).exists()
        query = query.where(is_parent if is_parent_roi else ~is_parent)
    with db.reading() as session:
        rois = page(
            session,
            query,
            skip=skip,
            limit=limit,
            wanted=[
                (Roi.specimen_id, specimen_id),
                (Roi.block_id, block_id),
                (Roi.section_id, section_id),
            ],
        )
        return _shown(session, rois)


@router.get("/sections/{section_id}/rois")
def list_rois_of_section(
    section_id: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> list[ROIResponse]:
    """The regions of one section; 404 where there is no such section."""
    with db.reading() as session:
        one(session, Section, section_id)
    return list_rois(db, section_id=section_id, skip=skip, limit=limit)


@router.post("/rois", status_code=201)
def create_roi(told: ROICreate, db: Db) -> ROIResponse:
    """A new region; its id is made of what it lies on and its number."""
    with db.writing() as session:
        return _shown(session, [_create(session, told)])[0]


@router.post("/rois/batch", status_code=201)
def create_rois(told: list[ROICreate], db: Db) -> list[ROIResponse]:
    """Many new regions, all or none; a parent comes before its parts."""
    if not told:
        raise wrong(400, "the list of ROIs is empty; give at least one")
    with db.writing() as session:
        return _shown(session, [_create(session, each) for each in told])


@router.get("/rois/{roi_id}")
def get_roi(roi_id: str, db: Db) -> ROIResponse:
    """One region, by its id or its number in the database."""
    with db.reading() as session:
        return _shown(session, [_roi(session, roi_id)])[0]


@router.get("/rois/{roi_id}/hierarchy")
def get_hierarchy(roi_id: str, db: Db) -> dict[str, Any]:
    """The way from the top region down to this one."""
    path: list[dict[str, Any]] = []
    with db.reading() as session:
        found = _roi(session, roi_id)
        at: Roi | None = found
        while at is not None:
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
def get_children(
    roi_id: str, db: Db, skip: Skip = 0, limit: Limit = 10
) -> dict[str, Any]:
    """The parts of one region, one level below it."""
    with db.reading() as session:
        parent = _roi(session, roi_id)
        below = Roi.parent_roi_id == parent.roi_id
        total = session.scalar(select(func.count(Roi.id)).where(below)) or 0
        query = select(Roi).where(below).order_by(Roi.roi_id)
        children = _shown(session, page(session, query, skip=skip, limit=limit))
    return {
        "children": children,
        "metadata": {
            "skip": skip,
            "limit": limit,
            "total_children": total,
            "has_more": skip + limit < total,
        },
    }


@router.patch("/rois/{roi_id}")
def update_roi(roi_id: str, told: ROIUpdate, db: Db) -> ROIResponse:
    """A region with some fields of its payload changed; the others stay."""
    given = told.payload.model_dump(mode="json", exclude_unset=True)
    if not given:
        raise wrong(400, "the update names no field; say what is to change")
    with db.writing() as session:
        found = _roi(session, roi_id)
        found.roi_payload = {**(found.roi_payload or {}), **given}
        found.updated_at = now()
        return _shown(session, [found])[0]


@router.delete("/rois/{roi_id}", status_code=204)
def delete_roi(roi_id: str, db: Db) -> None:
    """Remove a region without parts, tasks and runs."""
    with db.writing() as session:
        found = _roi(session, roi_id)
        for what, users in (
            ("parts", Roi.parent_roi_id == found.roi_id),
            ("tasks", Task.roi_id == found.roi_id),
            ("acquisitions", Acquisition.roi_id == found.roi_id),
        ):
            if has(session, users):
                raise in_use("ROI", roi_id, what)
        session.delete(found)


def _create(session: Session, told: ROICreate) -> Roi:
    section = one(session, Section, told.section_id)
    lineage = (section.specimen_id, section.block_id)
    if (told.specimen_id, told.block_id) != lineage:
        raise wrong(
            422,
            f"section {told.section_id} is of block {section.block_id} of specimen "
            f"{section.specimen_id}, not of {told.block_id} of {told.specimen_id}",
        )
    one(session, Substrate, told.substrate_media_id)
    parent = one(session, Roi, told.parent_roi_id) if told.parent_roi_id else None
    if parent is None:
        stem = ".".join((*lineage, told.section_id, told.substrate_media_id))
        roi_id, level = f"{stem}.ROI{told.roi_number:03d}", 1
    else:
        roi_id = f"{parent.roi_id}.ROI{told.roi_number:04d}"
        level = parent.hierarchy_level + 1
    refuse_taken(session, Roi, roi_id)
    made = Roi(
        roi_id=roi_id,
        hierarchy_level=level,
        created_at=told.created_at or now(),
        roi_payload=told.payload.model_dump(mode="json"),
        **told.model_dump(exclude={"created_at", "payload"}),
    )
    session.add(made)
    session.flush()
    return made


def _roi(session: Session, name: str) -> Roi:
    """By id, or by number: the published client types it as a number."""
    if not name.isdecimal():
        return one(session, Roi, name)
    found = session.get(Roi, int(name))
    if found is None:
        raise missing("ROI", name)
    return found


def _shown(session: Session, rois: Sequence[Roi]) -> list[ROIResponse]:
    names = [roi.roi_id for roi in rois]
    query = select(Roi.parent_roi_id).where(Roi.parent_roi_id.in_(names)).distinct()
    parents = set(session.scalars(query)) if names else set()
    answers = [ROIResponse.model_validate(roi) for roi in rois]
    for answer in answers:
        answer.is_parent = answer.roi_id in parents
    return answers
