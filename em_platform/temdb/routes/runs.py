"""Lists of acquisitions: filtered, sorted, in pages; alone or with their lineage."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session
from temdb.models import AcquisitionFullMetadata, AcquisitionResponse

from em_platform.temdb.columns import Base, Document, Moment, in_utc
from em_platform.temdb.routes.rows import MOST_A_PAGE, Db, Values, one, wrong
from em_platform.temdb.tables import (
    Acquisition,
    Block,
    CuttingSession,
    Roi,
    Section,
    Specimen,
    Substrate,
    Task,
    Tile,
)

router = APIRouter(tags=["acquisitions"])

_SORTABLE: dict[str, InstrumentedAttribute[Any]] = {
    "start_time": Acquisition.start_time,
    "created_at": Acquisition.created_at,
    "acquisition_id": Acquisition.acquisition_id,
    "montage_id": Acquisition.montage_id,
    "qc_state": Acquisition.qc_state,
    "transfer_state": Acquisition.transfer_state,
    "id": Acquisition.id,
}
_STATUSES = ("complete", "aborted", "failed", "in_flight")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs are wanted."""

    specimen_id: str | None = None
    roi_id: str | None = None
    acquisition_task_id: str | None = None
    montage_set_name: str | None = None
    substrate_media_id: str | None = None
    magnification: int | None = None
    status: str | None = None
    qc_state: str | None = None
    kind: str | None = None
    start_date: datetime | None = None
    end_date: datetime | None = None
    param_tile_focus_lt: float | None = None
    param_tile_match_quality_lt: float | None = None
    param_tile_dx_gt: float | None = None
    param_tile_dy_gt: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Which part of them, in which order."""

    cursor: str | None = None
    limit: Annotated[int, Query(ge=1, le=MOST_A_PAGE)] = 50
    sort_by: str = "start_time"
    sort_order: int = -1
    fields: Annotated[list[str] | None, Query()] = None


Filter = Annotated[RunFilter, Depends()]
Page = Annotated[RunPage, Depends()]


@router.get("/acquisitions")
def list_acquisitions(
    db: Db, wanted: Filter, part: Page, response: Response
) -> Document:
    """One page of runs, and where the next one begins."""
    with db.reading() as session:
        runs, metadata = _page(session, wanted, part)
        shown = [
            AcquisitionResponse.model_validate(run).model_dump(mode="json")
            for run in runs
        ]
    if part.fields:
        names = dict.fromkeys(("id", *part.fields))
        shown = [{name: run.get(name) for name in names} for run in shown]
    response.headers["X-Total-Count"] = str(metadata["total_count"])
    return {"acquisitions": shown, "metadata": metadata}


# As the published client asks, and as upstream's server answers.
@router.get("/acquisitions/aggregated")
@router.get("/aggregated/acquisitions")
def list_aggregated(db: Db, wanted: Filter, part: Page, response: Response) -> Document:
    """One page of runs, each with all its parents."""
    with db.reading() as session:
        runs, metadata = _page(session, wanted, part)
        shown = [full_metadata(session, run) for run in runs]
    response.headers["X-Total-Count"] = str(metadata["total_count"])
    return {"acquisitions": shown, "metadata": metadata}


@router.get("/acquisitions/{acquisition_id}/complete-metadata")
@router.get("/acquisitions/{acquisition_id}/metadata")
def get_full_metadata(acquisition_id: str, db: Db) -> AcquisitionFullMetadata:
    """One run with all its parents."""
    with db.reading() as session:
        return full_metadata(session, one(session, Acquisition, acquisition_id))


def _page(
    session: Session, wanted: RunFilter, part: RunPage
) -> tuple[Sequence[Acquisition], Document]:
    column = _SORTABLE.get(part.sort_by)
    if column is None:
        names = ", ".join(_SORTABLE)
        raise wrong(422, f"sort_by is {part.sort_by!r}, expected one of {names}")
    ascending = part.sort_order == 1
    such = _conditions(wanted)
    total = session.scalar(select(func.count(Acquisition.id)).where(*such)) or 0
    query = select(Acquisition).where(*such)
    query = _behind(query, column, part.cursor, ascending=ascending)
    # With the id no two are equal: equal times would be repeated, or left out.
    keys = (column, Acquisition.id)
    order = [key.asc() if ascending else key.desc() for key in keys]
    # One more than asked shows whether there is a next page.
    found = session.scalars(query.order_by(*order).limit(part.limit + 1)).all()
    runs, has_more = found[: part.limit], len(found) > part.limit
    return runs, {
        "total_count": total,
        "returned_count": len(runs),
        "limit": part.limit,
        "sort_by": part.sort_by,
        "sort_order": 1 if ascending else -1,
        "next_cursor": _cursor(runs[-1], part.sort_by) if has_more else None,
        "has_more": has_more,
    }


def _conditions(wanted: RunFilter) -> list[ColumnElement[bool]]:
    such = [
        column == value
        for column, value in (
            (Acquisition.specimen_id, wanted.specimen_id),
            (Acquisition.roi_id, wanted.roi_id),
            (Acquisition.acquisition_task_id, wanted.acquisition_task_id),
            (Acquisition.montage_set_name, wanted.montage_set_name),
            (Acquisition.qc_state, wanted.qc_state),
            (Acquisition.kind, wanted.kind),
        )
        if value is not None
    ]
    if wanted.status is not None:
        such.append(_status_is(wanted.status))
    if wanted.magnification is not None:
        # It has no column of its own: settings are kept as they came, in JSON.
        magnification = Acquisition.acquisition_settings["magnification"].as_integer()
        such.append(magnification == wanted.magnification)
    if wanted.substrate_media_id is not None:
        lies_on = Roi.substrate_media_id == wanted.substrate_media_id
        such.append(exists().where(Roi.roi_id == Acquisition.roi_id, lies_on))
    if wanted.start_date is not None:
        such.append(Acquisition.start_time >= in_utc(wanted.start_date))
    if wanted.end_date is not None:
        such.append(Acquisition.start_time <= in_utc(wanted.end_date))
    return such + _tile_conditions(wanted)


def _tile_conditions(wanted: RunFilter) -> list[ColumnElement[bool]]:
    """Runs of which any tile is such."""
    limits = (
        (wanted.param_tile_focus_lt, Tile.focus_score.__lt__),
        (wanted.param_tile_match_quality_lt, Tile.worst_match_quality.__lt__),
        (wanted.param_tile_dx_gt, Tile.most_dx.__gt__),
        (wanted.param_tile_dy_gt, Tile.most_dy.__gt__),
    )
    of_run = and_(
        Tile.dataset_id == Acquisition.dataset_id, Tile.run_id == Acquisition.run_id
    )
    return [
        exists().where(of_run, compare(limit))
        for limit, compare in limits
        if limit is not None
    ]


def _status_is(status: str) -> ColumnElement[bool]:
    if status not in _STATUSES:
        raise wrong(
            422, f"status is {status!r}, expected one of {', '.join(_STATUSES)}"
        )
    # It is no value of the column but its absence.
    if status == "in_flight":
        return Acquisition.status.is_(None)
    return Acquisition.status == status


def _cursor(run: Acquisition, sort_by: str) -> str:
    # A place and no offset: runs that come meanwhile would shift the pages.
    value = getattr(run, sort_by)
    shown = value.isoformat() if isinstance(value, datetime) else value
    return base64.urlsafe_b64encode(json.dumps([shown, run.id]).encode()).decode()


def _behind(
    query: Select[Acquisition],
    column: InstrumentedAttribute[Any],
    cursor: str | None,
    *,
    ascending: bool,
) -> Select[Acquisition]:
    """What comes after the run at which the page before ended."""
    if cursor is None:
        return query
    try:
        value, number = json.loads(base64.urlsafe_b64decode(cursor))
        # JSON has a moment as text.
        if isinstance(column.type, Moment):
            value = datetime.fromisoformat(value)
    # Base64, JSON, the pair and the time can each be wrong.
    except (ValueError, TypeError) as error:
        raise wrong(
            422, f"cursor {cursor!r} is none of ours; give a page's next_cursor"
        ) from error
    if ascending:
        rest = or_(column > value, and_(column == value, Acquisition.id > number))
    else:
        rest = or_(column < value, and_(column == value, Acquisition.id < number))
    return query.where(rest)


def full_metadata(session: Session, run: Acquisition) -> AcquisitionFullMetadata:
    """The run, its task, and the specimen down to the region; what is not is null."""
    query = (
        select(Task, Roi, Section, CuttingSession, Block, Specimen, Substrate)
        # Outer joins: a lens run has no region, and nothing above it.
        .outerjoin(Roi, Roi.roi_id == Task.roi_id)
        .outerjoin(Section, Section.section_id == Roi.section_id)
        .outerjoin(
            CuttingSession,
            CuttingSession.cutting_session_id == Section.cutting_session_id,
        )
        .outerjoin(
            Block,
            (Block.block_id == Section.block_id)
            & (Block.specimen_id == Section.specimen_id),
        )
        .outerjoin(Specimen, Specimen.specimen_id == Task.specimen_id)
        .outerjoin(Substrate, Substrate.media_id == Roi.substrate_media_id)
        .where(Task.task_id == run.acquisition_task_id)
    )
    task, roi, section, cut, block, specimen, substrate = session.execute(query).one()
    return AcquisitionFullMetadata(
        acquisition=AcquisitionResponse.model_validate(run),
        acquisition_task=_columns_of(task),
        roi=_columns_of(roi),
        section=_columns_of(section),
        cutting_session=_columns_of(cut),
        block=_columns_of(block),
        specimen=_columns_of(specimen),
        substrate=_columns_of(substrate),
    )


def _columns_of(row: Base | None) -> Values | None:
    if row is None:
        return None
    values = {name: getattr(row, name) for name in row.__mapper__.columns.keys()}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }
