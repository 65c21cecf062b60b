"""Rows found, listed and changed for the routes, and refusals of one sentence."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias, TypeVar
from uuid import UUID

from fastapi import Depends, HTTPException, Query, Request
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from sqlalchemy import JSON, ColumnElement, Select, exists, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from em_platform.temdb.columns import Base, now
from em_platform.temdb.database import Database
from em_platform.temdb.tables import (
    Acquisition,
    Block,
    CuttingSession,
    Dataset,
    LensCorrection,
    Microscope,
    Roi,
    Section,
    Specimen,
    Substrate,
    Task,
)

T = TypeVar("T", bound=Base)
V = TypeVar("V")

Values: TypeAlias = dict[str, Any]
"""Column of a table -> a row's value in it."""

Wanted = Sequence[tuple[InstrumentedAttribute[Any], object]]
"""Columns and what they must be."""

# 1000 tiles with all matches are 1 MB and 0.1 s (docs/explanations/temdb.md).
MOST_A_PAGE = 1000
KEYS: dict[type[Base], tuple[str, InstrumentedAttribute[Any]]] = {
    Acquisition: ("acquisition", Acquisition.acquisition_id),
    Block: ("block", Block.block_id),  # unique only within its specimen
    CuttingSession: ("cutting session", CuttingSession.cutting_session_id),
    Dataset: ("dataset", Dataset.dataset_id),
    LensCorrection: ("lens correction", LensCorrection.lc_id),
    Microscope: ("microscope", Microscope.microscope_id),
    Roi: ("ROI", Roi.roi_id),
    Section: ("section", Section.section_id),
    Specimen: ("specimen", Specimen.specimen_id),
    Substrate: ("substrate", Substrate.media_id),
    Task: ("acquisition task", Task.task_id),
}
# SQLAlchemy keeps `metadata` of a table's class for itself.
_RENAMED = {"metadata": "metadata_json"}

Skip = Annotated[int, Query(ge=0)]
Limit = Annotated[int, Query(ge=1, le=MOST_A_PAGE)]


def _database_of(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


Db = Annotated[Database, Depends(_database_of)]


def missing(what: str, name: object) -> HTTPException:
    """404: there is no such entity."""
    return HTTPException(404, f"TEM DB: there is no {what} {name!s}; create it first")


def taken(what: str, name: object) -> HTTPException:
    """409: the name is given."""
    return HTTPException(
        409, f"TEM DB: {what} {name!s} exists already; update it, or choose another id"
    )


def in_use(what: str, name: object, by: str) -> HTTPException:
    """409: other rows refer to it."""
    return HTTPException(
        409,
        f"TEM DB: {what} {name!s} has {by} and cannot be deleted; delete those first",
    )


def wrong(status: int, sentence: str) -> HTTPException:
    """Any other refusal."""
    return HTTPException(status, f"TEM DB: {sentence}")


def one(session: Session, row: type[T], name: object) -> T:
    """The one row with that key; 404 where it is not there."""
    what, key = KEYS[row]
    found = session.scalars(select(row).where(key == name)).one_or_none()
    if found is None:
        raise missing(what, name)
    return found


def refuse_taken(session: Session, row: type[Base], name: object) -> None:
    """409 where a row has that key already."""
    what, key = KEYS[row]
    if has(session, key == name):
        raise taken(what, name)


def has(session: Session, *where: ColumnElement[bool]) -> bool:
    """Whether any row is such."""
    return bool(session.scalar(select(exists().where(*where))))


def page(
    session: Session,
    query: Select[T],
    *,
    skip: int,
    limit: int,
    wanted: Wanted = (),
) -> Sequence[T]:
    """One page of the rows with the `wanted` values."""
    query = only(query, wanted)
    return session.scalars(query.offset(skip).limit(limit)).all()


def only(query: Select[V], wanted: Wanted) -> Select[V]:
    """The query for rows of which each wanted column has its value; None: any."""
    for column, value in wanted:
        if value is not None:
            query = query.where(column == value)
    return query


def values_of(request: BaseModel, row: type[Base], *, only_set: bool = False) -> Values:
    """The fields of a request as values of the row's columns.

    With `only_set` (an update), fields that the request does not name are left out.
    """
    columns, values = row.__table__.columns, {}
    for field, value in request.model_dump(exclude_unset=only_set).items():
        name = _RENAMED.get(field, field)
        # None leaves a new row's column to its default; in an update it empties it.
        if name not in columns or (value is None and not only_set):
            continue
        is_json = isinstance(columns[name].type, JSON)
        if is_json and isinstance(value, set):  # sorted, that the same set is the same
            value = sorted(to_jsonable_python(value))
        values[name] = to_jsonable_python(value) if is_json else value
    return values


def change(row: Base, update: BaseModel) -> None:
    """Write an update into a row; 400 where it names no field."""
    values = values_of(update, type(row), only_set=True)
    if not values:
        raise wrong(400, "the update names no field; say what is to change")
    columns = type(row).__table__.columns
    for name, value in values.items():
        if value is None and not columns[name].nullable:
            raise wrong(422, f"{name} cannot be removed; give it a value")
        setattr(row, name, value)
    if "updated_at" in columns:
        setattr(row, "updated_at", now())  # noqa: B010


def uuid_of(what: str, text: str) -> UUID:
    """The UUID in a path; 404 where it is none, as nothing can have that id."""
    try:
        return UUID(text)
    except ValueError as error:
        raise missing(what, text) from error
