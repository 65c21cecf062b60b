"""Substrates: what carries the sections."""

from collections.abc import Sequence

from fastapi import APIRouter
from sqlalchemy import select
from temdb.models import (
    SectionResponse,
    SubstrateCreate,
    SubstrateResponse,
    SubstrateUpdate,
)

from em_platform.temdb.routes.answers import (
    Db,
    Limit,
    Skip,
    change,
    has,
    in_use,
    one,
    page,
    refuse_taken,
    values_of,
    wrong,
)
from em_platform.temdb.tables import Section, Substrate

router = APIRouter(tags=["substrates"])


@router.get("/substrates", response_model=list[SubstrateResponse])
def list_substrates(
    db: Db,
    media_type: str | None = None,
    status: str | None = None,
    skip: Skip = 0,
    limit: Limit = 100,
) -> Sequence[Substrate]:
    """Substrates, in the order in which they came."""
    with db.reading() as session:
        return page(
            session,
            select(Substrate).order_by(Substrate.id),
            skip=skip,
            limit=limit,
            wanted=[(Substrate.media_type, media_type), (Substrate.status, status)],
        )


@router.post("/substrates", response_model=SubstrateResponse, status_code=201)
def create_substrate(told: SubstrateCreate, db: Db) -> Substrate:
    """A new substrate."""
    with db.writing() as session:
        refuse_taken(session, Substrate, told.media_id)
        made = Substrate(**values_of(told, Substrate))
        session.add(made)
    return made


@router.get("/substrates/{media_id}", response_model=SubstrateResponse)
def get_substrate(media_id: str, db: Db) -> Substrate:
    """One substrate."""
    with db.reading() as session:
        return one(session, Substrate, media_id)


@router.patch("/substrates/{media_id}", response_model=SubstrateResponse)
def update_substrate(media_id: str, told: SubstrateUpdate, db: Db) -> Substrate:
    """A substrate with some fields changed; its id only while it is empty."""
    with db.writing() as session:
        found = one(session, Substrate, media_id)
        if told.media_id is not None and told.media_id != media_id:
            refuse_taken(session, Substrate, told.media_id)
            if has(session, Section.media_id == media_id):
                raise wrong(
                    409,
                    f"substrate {media_id} has sections, which are named after it; it "
                    "keeps its id",
                )
        change(found, told)
    return found


@router.delete("/substrates/{media_id}", status_code=204)
def delete_substrate(media_id: str, db: Db) -> None:
    """Remove a substrate without sections."""
    with db.writing() as session:
        found = one(session, Substrate, media_id)
        if has(session, Section.media_id == media_id):
            raise in_use("substrate", media_id, "sections")
        session.delete(found)


@router.get("/substrates/{media_id}/sections", response_model=list[SectionResponse])
def list_sections_of_substrate(
    media_id: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> Sequence[Section]:
    """The sections on one substrate; 404 where there is no such substrate."""
    with db.reading() as session:
        one(session, Substrate, media_id)
        return page(
            session,
            select(Section).order_by(Section.section_number, Section.id),
            skip=skip,
            limit=limit,
            wanted=[(Section.media_id, media_id)],
        )
