"""Cutting sessions, and the sections that came of them."""

from collections.abc import Sequence
from typing import TypeVar

from fastapi import APIRouter
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session
from temdb.models import (
    CuttingSessionCreate,
    CuttingSessionResponse,
    CuttingSessionUpdate,
    SectionCreate,
    SectionQuality,
    SectionResponse,
    SectionUpdate,
)

from em_platform.temdb.routes.answers import (
    Db,
    Limit,
    Skip,
    Wanted,
    change,
    has,
    in_use,
    missing,
    one,
    only,
    page,
    refuse_taken,
    values_of,
    wrong,
)
from em_platform.temdb.tables import (
    Block,
    CuttingSession,
    Roi,
    Section,
    Substrate,
    now,
)

T = TypeVar("T")

router = APIRouter(tags=["sections"])

_SESSIONS = "/cutting-sessions/specimens/{specimen_id}/blocks/{block_id}/sessions"
_SESSION = f"{_SESSIONS}/{{cutting_session_id}}"
_SECTION = "/sections/sessions/{cutting_session_id}/sections/{section_id}"


@router.get("/cutting-sessions", response_model=list[CuttingSessionResponse])
def list_cutting_sessions(
    db: Db,
    specimen_id: str | None = None,
    block_id: str | None = None,
    operator: str | None = None,
    skip: Skip = 0,
    limit: Limit = 100,
) -> Sequence[CuttingSession]:
    """Cutting sessions, the oldest first."""
    with db.reading() as session:
        return page(
            session,
            select(CuttingSession).order_by(CuttingSession.start_time),
            skip=skip,
            limit=limit,
            wanted=[
                (CuttingSession.specimen_id, specimen_id),
                (CuttingSession.block_id, block_id),
                (CuttingSession.operator, operator),
            ],
        )


@router.get(_SESSIONS, response_model=list[CuttingSessionResponse])
def list_cutting_sessions_of_block(
    specimen_id: str, block_id: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> Sequence[CuttingSession]:
    """The cutting sessions of one block."""
    return list_cutting_sessions(
        db, specimen_id=specimen_id, block_id=block_id, skip=skip, limit=limit
    )


@router.post(
    "/cutting-sessions", response_model=CuttingSessionResponse, status_code=201
)
def create_cutting_session(told: CuttingSessionCreate, db: Db) -> CuttingSession:
    """A new cutting session of a block."""
    with db.writing() as session:
        refuse_taken(session, CuttingSession, told.cutting_session_id)
        block = _only_block(session, told.block_id, specimen_id=None)
        made = CuttingSession(**values_of(told, CuttingSession))
        made.specimen_id = block.specimen_id
        session.add(made)
    return made


@router.get(_SESSION, response_model=CuttingSessionResponse)
def get_cutting_session(
    specimen_id: str, block_id: str, cutting_session_id: str, db: Db
) -> CuttingSession:
    """One cutting session of one block."""
    with db.reading() as session:
        found = one(session, CuttingSession, cutting_session_id)
    if (found.specimen_id, found.block_id) != (specimen_id, block_id):
        raise missing("cutting session", f"{cutting_session_id} of block {block_id}")
    return found


@router.get(
    f"{_SESSION}/sections",
    response_model=list[SectionResponse],
)
def list_sections_of_block_session(
    specimen_id: str,
    block_id: str,
    cutting_session_id: str,
    db: Db,
    skip: Skip = 0,
    limit: Limit = 100,
) -> Sequence[Section]:
    """The sections of one cutting session of one block."""
    get_cutting_session(specimen_id, block_id, cutting_session_id, db)
    return list_sections(
        db, cutting_session_id=cutting_session_id, skip=skip, limit=limit
    )


@router.patch(
    "/cutting-sessions/{cutting_session_id}", response_model=CuttingSessionResponse
)
def update_cutting_session(
    cutting_session_id: str, told: CuttingSessionUpdate, db: Db
) -> CuttingSession:
    """A cutting session with some fields changed; its block only while it is empty."""
    with db.writing() as session:
        found = one(session, CuttingSession, cutting_session_id)
        block_id = told.block_id or found.block_id
        specimen_id = told.specimen_id or found.specimen_id
        if (specimen_id, block_id) != (found.specimen_id, found.block_id):
            _only_block(session, block_id, specimen_id=specimen_id)
            if has(session, Section.cutting_session_id == cutting_session_id):
                raise wrong(
                    409,
                    f"cutting session {cutting_session_id} has sections, which hang "
                    "on its block; it cannot move to another one",
                )
        change(found, told)
    return found


@router.delete("/cutting-sessions/{cutting_session_id}", status_code=204)
def delete_cutting_session(cutting_session_id: str, db: Db) -> None:
    """Remove a cutting session without sections."""
    with db.writing() as session:
        found = one(session, CuttingSession, cutting_session_id)
        if has(session, Section.cutting_session_id == cutting_session_id):
            raise in_use("cutting session", cutting_session_id, "sections")
        session.delete(found)


@router.get("/sections", response_model=list[SectionResponse])
def list_sections(
    db: Db,
    specimen_id: str | None = None,
    block_id: str | None = None,
    cutting_session_id: str | None = None,
    media_id: str | None = None,
    quality: SectionQuality | None = None,
    skip: Skip = 0,
    limit: Limit = 100,
) -> Sequence[Section]:
    """Sections, in the order of their numbers."""
    query = _with_quality(select(Section), quality)
    with db.reading() as session:
        return page(
            session,
            query.order_by(Section.section_number, Section.id),
            skip=skip,
            limit=limit,
            wanted=_of(specimen_id, block_id, cutting_session_id, media_id),
        )


@router.get("/sections/count")
def count_sections(
    db: Db,
    specimen_id: str | None = None,
    block_id: str | None = None,
    cutting_session_id: str | None = None,
    media_id: str | None = None,
    quality: SectionQuality | None = None,
) -> int:
    """How many sections there are."""
    query = _with_quality(select(func.count(Section.id)), quality)
    wanted = _of(specimen_id, block_id, cutting_session_id, media_id)
    with db.reading() as session:
        return session.scalar(only(query, wanted)) or 0


@router.get("/sections/sessions/{cutting_session_id}")
def list_sections_of_session(
    cutting_session_id: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> list[SectionResponse]:
    """The sections of one cutting session; 404 where there is no such session."""
    with db.reading() as session:
        one(session, CuttingSession, cutting_session_id)
    found = list_sections(
        db, cutting_session_id=cutting_session_id, skip=skip, limit=limit
    )
    return [SectionResponse.model_validate(section) for section in found]


@router.get("/sections/blocks/{block_id}", response_model=list[SectionResponse])
def list_sections_of_block(
    block_id: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> Sequence[Section]:
    """The sections of one block."""
    return list_sections(db, block_id=block_id, skip=skip, limit=limit)


@router.get("/sections/specimens/{specimen_id}", response_model=list[SectionResponse])
def list_sections_of_specimen(
    specimen_id: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> Sequence[Section]:
    """The sections of one specimen."""
    return list_sections(db, specimen_id=specimen_id, skip=skip, limit=limit)


@router.get("/sections/media/{media_id}", response_model=list[SectionResponse])
def list_sections_of_media(
    media_id: str,
    db: Db,
    relative_position: int | None = None,
    skip: Skip = 0,
    limit: Limit = 100,
) -> Sequence[Section]:
    """The sections on one substrate; `relative_position` is the aperture's index."""
    with db.reading() as session:
        return page(
            session,
            select(Section).order_by(Section.section_number, Section.id),
            skip=skip,
            limit=limit,
            wanted=[
                (Section.media_id, media_id),
                (Section.aperture_index, relative_position),
            ],
        )


@router.get("/sections/barcode/{barcode}", response_model=list[SectionResponse])
def list_sections_of_barcode(
    barcode: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> Sequence[Section]:
    """The sections with one barcode."""
    with db.reading() as session:
        return page(
            session,
            select(Section).order_by(Section.id),
            skip=skip,
            limit=limit,
            wanted=[(Section.barcode, barcode)],
        )


@router.post("/sections", response_model=SectionResponse, status_code=201)
def create_section(told: SectionCreate, db: Db) -> Section:
    """A new section; its id is made of its medium and number."""
    with db.writing() as session:
        return _create(session, told)


@router.post("/sections/batch", response_model=list[SectionResponse], status_code=201)
def create_sections(told: list[SectionCreate], db: Db) -> Sequence[Section]:
    """Many new sections, all or none."""
    if not told:
        raise wrong(400, "the list of sections is empty; give at least one")
    with db.writing() as session:
        return [_create(session, each) for each in told]


@router.get(_SECTION, response_model=SectionResponse)
def get_section(cutting_session_id: str, section_id: str, db: Db) -> Section:
    """One section of one cutting session."""
    with db.reading() as session:
        return _section(session, cutting_session_id, section_id)


@router.patch(_SECTION, response_model=SectionResponse)
def update_section(
    cutting_session_id: str, section_id: str, told: SectionUpdate, db: Db
) -> Section:
    """A section with some fields changed, its condition among them."""
    with db.writing() as session:
        found = _section(session, cutting_session_id, section_id)
        change(found, told)
    return found


@router.delete(_SECTION, status_code=204)
def delete_section(cutting_session_id: str, section_id: str, db: Db) -> None:
    """Remove a section without regions."""
    with db.writing() as session:
        found = _section(session, cutting_session_id, section_id)
        if has(session, Roi.section_id == section_id):
            raise in_use("section", section_id, "ROIs")
        session.delete(found)


def _create(session: Session, told: SectionCreate) -> Section:
    cut = one(session, CuttingSession, told.cutting_session_id)
    one(session, Substrate, told.media_id)
    section_id = f"{told.media_id}_S{told.section_number}"
    refuse_taken(session, Section, section_id)
    made = Section(**{"timestamp": now()} | values_of(told, Section))
    made.section_id = section_id
    made.specimen_id, made.block_id = cut.specimen_id, cut.block_id
    session.add(made)
    session.flush()
    return made


def _section(session: Session, cutting_session_id: str, section_id: str) -> Section:
    found = one(session, Section, section_id)
    if found.cutting_session_id != cutting_session_id:
        raise missing("section", f"{section_id} of session {cutting_session_id}")
    return found


def _of(
    specimen_id: str | None,
    block_id: str | None,
    cutting_session_id: str | None,
    media_id: str | None,
) -> Wanted:
    return [
        (Section.specimen_id, specimen_id),
        (Section.block_id, block_id),
        (Section.cutting_session_id, cutting_session_id),
        (Section.media_id, media_id),
    ]


def _with_quality(query: Select[T], quality: SectionQuality | None) -> Select[T]:
    if quality is None:
        return query
    return query.where(Section.section_metrics["quality"].as_string() == quality.value)


def _only_block(session: Session, block_id: str, *, specimen_id: str | None) -> Block:
    """The block of that id; 409 where several specimens have one and none is named."""
    query = select(Block).where(Block.block_id == block_id)
    if specimen_id is not None:
        query = query.where(Block.specimen_id == specimen_id)
    found = session.scalars(query.limit(2)).all()
    if not found:
        raise missing("block", block_id)
    if len(found) > 1:
        raise wrong(
            409,
            f"several specimens have a block {block_id}, and a cutting session names "
            "only the block; give blocks ids of their own",
        )
    return found[0]
