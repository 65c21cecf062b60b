"""Specimens and their blocks."""

from collections.abc import Sequence, Set

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session
from temdb.models import (
    BlockCreate,
    BlockResponse,
    BlockUpdate,
    CuttingSessionResponse,
    SpecimenCreate,
    SpecimenResponse,
    SpecimenUpdate,
)

from em_platform.temdb.routes.answers import (
    Db,
    Limit,
    Skip,
    change,
    has,
    in_use,
    missing,
    one,
    page,
    refuse_taken,
    taken,
    values_of,
)
from em_platform.temdb.tables import Acquisition, Block, CuttingSession, Specimen, now

router = APIRouter(tags=["specimens"])

_BLOCK = "/blocks/specimens/{specimen_id}/blocks/{block_id}"


class SpecimenImage(BaseModel):
    """One more picture of a specimen."""

    model_config = ConfigDict(extra="forbid")

    image_url: str


@router.get("/specimens", response_model=list[SpecimenResponse])
def list_specimens(db: Db, skip: Skip = 0, limit: Limit = 100) -> Sequence[Specimen]:
    """All specimens, in the order in which they came."""
    with db.reading() as session:
        query = select(Specimen).order_by(Specimen.id)
        return page(session, query, skip=skip, limit=limit)


@router.post("/specimens", response_model=SpecimenResponse, status_code=201)
def create_specimen(told: SpecimenCreate, db: Db) -> Specimen:
    """A new specimen."""
    with db.writing() as session:
        refuse_taken(session, Specimen, told.specimen_id)
        made = Specimen(**values_of(told, Specimen))
        session.add(made)
    return made


@router.get("/specimens/{specimen_id}", response_model=SpecimenResponse)
def get_specimen(specimen_id: str, db: Db) -> Specimen:
    """One specimen."""
    with db.reading() as session:
        return one(session, Specimen, specimen_id)


@router.patch("/specimens/{specimen_id}", response_model=SpecimenResponse)
def update_specimen(specimen_id: str, told: SpecimenUpdate, db: Db) -> Specimen:
    """A specimen with some fields changed."""
    with db.writing() as session:
        found = one(session, Specimen, specimen_id)
        change(found, told)
    return found


@router.delete("/specimens/{specimen_id}", status_code=204)
def delete_specimen(specimen_id: str, db: Db) -> None:
    """Remove a specimen that nothing hangs on."""
    with db.writing() as session:
        found = one(session, Specimen, specimen_id)
        if has(session, Block.specimen_id == specimen_id):
            raise in_use("specimen", specimen_id, "blocks")
        if has(session, Acquisition.specimen_id == specimen_id):
            raise in_use("specimen", specimen_id, "acquisitions")
        session.delete(found)


@router.post("/specimens/{specimen_id}/images", response_model=SpecimenResponse)
def add_image(specimen_id: str, told: SpecimenImage, db: Db) -> Specimen:
    """A specimen with one more picture."""
    return _with_images(specimen_id, db, added={told.image_url})


@router.delete("/specimens/{specimen_id}/images", response_model=SpecimenResponse)
def remove_image(specimen_id: str, image_url: str, db: Db) -> Specimen:
    """A specimen with one picture less."""
    return _with_images(specimen_id, db, removed={image_url})


def _with_images(
    specimen_id: str,
    db: Db,
    *,
    added: Set[str] = frozenset(),
    removed: Set[str] = frozenset(),
) -> Specimen:
    with db.writing() as session:
        found = one(session, Specimen, specimen_id)
        images = set(found.specimen_images or ()) | added
        found.specimen_images = sorted(images - removed)
        found.updated_at = now()
    return found


@router.get("/specimens/{specimen_id}/blocks", response_model=list[BlockResponse])
@router.get(
    "/blocks/specimens/{specimen_id}/blocks", response_model=list[BlockResponse]
)
def list_blocks_of_specimen(
    specimen_id: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> Sequence[Block]:
    """The blocks of one specimen."""
    return list_blocks(db, specimen_id=specimen_id, skip=skip, limit=limit)


@router.get("/blocks", response_model=list[BlockResponse])
def list_blocks(
    db: Db, specimen_id: str | None = None, skip: Skip = 0, limit: Limit = 100
) -> Sequence[Block]:
    """All blocks, or those of one specimen."""
    with db.reading() as session:
        return page(
            session,
            select(Block).order_by(Block.id),
            skip=skip,
            limit=limit,
            wanted=[(Block.specimen_id, specimen_id)],
        )


@router.post("/blocks", response_model=BlockResponse, status_code=201)
def create_block(told: BlockCreate, db: Db) -> Block:
    """A new block of a specimen."""
    with db.writing() as session:
        one(session, Specimen, told.specimen_id)
        same = Block.specimen_id == told.specimen_id, Block.block_id == told.block_id
        if has(session, *same):
            raise taken("block", f"{told.block_id} of {told.specimen_id}")
        made = Block(**values_of(told, Block))
        session.add(made)
    return made


@router.get(_BLOCK, response_model=BlockResponse)
def get_block(specimen_id: str, block_id: str, db: Db) -> Block:
    """One block."""
    with db.reading() as session:
        return _block(session, specimen_id, block_id)


@router.patch(_BLOCK, response_model=BlockResponse)
def update_block(specimen_id: str, block_id: str, told: BlockUpdate, db: Db) -> Block:
    """A block with some fields changed."""
    with db.writing() as session:
        found = _block(session, specimen_id, block_id)
        change(found, told)
    return found


@router.delete(_BLOCK, status_code=204)
def delete_block(specimen_id: str, block_id: str, db: Db) -> None:
    """Remove a block that was never cut."""
    with db.writing() as session:
        found = _block(session, specimen_id, block_id)
        cut = CuttingSession.specimen_id == specimen_id
        if has(session, cut, CuttingSession.block_id == block_id):
            raise in_use("block", block_id, "cutting sessions")
        session.delete(found)


@router.get(f"{_BLOCK}/cut-sessions", response_model=list[CuttingSessionResponse])
def list_sessions_of_block(
    specimen_id: str, block_id: str, db: Db, skip: Skip = 0, limit: Limit = 100
) -> Sequence[CuttingSession]:
    """The cutting sessions of one block."""
    get_block(specimen_id, block_id, db)
    with db.reading() as session:
        return page(
            session,
            select(CuttingSession).order_by(CuttingSession.start_time),
            skip=skip,
            limit=limit,
            wanted=[
                (CuttingSession.specimen_id, specimen_id),
                (CuttingSession.block_id, block_id),
            ],
        )


def _block(session: Session, specimen_id: str, block_id: str) -> Block:
    same = Block.specimen_id == specimen_id, Block.block_id == block_id
    found = session.scalars(select(Block).where(*same)).one_or_none()
    if found is None:
        raise missing("block", f"{block_id} of specimen {specimen_id}")
    return found
