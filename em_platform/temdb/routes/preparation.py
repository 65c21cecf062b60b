"""Specimens, their blocks, the sessions at the microtome, and substrates."""

from collections.abc import Set

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session
from temdb.models import (
    BlockCreate,
    BlockResponse,
    BlockUpdate,
    CuttingSessionCreate,
    CuttingSessionResponse,
    CuttingSessionUpdate,
    SpecimenCreate,
    SpecimenResponse,
    SpecimenUpdate,
    SubstrateCreate,
    SubstrateResponse,
    SubstrateUpdate,
)

from em_platform.temdb.columns import now
from em_platform.temdb.routes.entities import Entity, Listing, add_entity
from em_platform.temdb.routes.rows import (
    Db,
    Values,
    change,
    has,
    missing,
    one,
    refuse_taken,
    taken,
    values_of,
    wrong,
)
from em_platform.temdb.tables import (
    Acquisition,
    Block,
    CuttingSession,
    Section,
    Specimen,
    Substrate,
)

router = APIRouter()

_BLOCKS = "/blocks/specimens/{specimen_id}/blocks"
_BLOCK = f"{_BLOCKS}/{{block_id}}"
_SESSIONS = "/cutting-sessions/specimens/{specimen_id}/blocks/{block_id}/sessions"
SESSION_OF_BLOCK = f"{_SESSIONS}/{{cutting_session_id}}"


class SpecimenImage(BaseModel):
    """One more picture of a specimen."""

    model_config = ConfigDict(extra="forbid")

    image_url: str


def _find_block(session: Session, *, specimen_id: str, block_id: str) -> Block:
    same = Block.specimen_id == specimen_id, Block.block_id == block_id
    found = session.scalars(select(Block).where(*same)).one_or_none()
    if found is None:
        raise missing("block", f"{block_id} of specimen {specimen_id}")
    return found


def _block_values(session: Session, new: BlockCreate) -> Values:
    one(session, Specimen, new.specimen_id)
    same = Block.specimen_id == new.specimen_id, Block.block_id == new.block_id
    if has(session, *same):
        raise taken("block", f"{new.block_id} of {new.specimen_id}")
    return values_of(new, Block)


def find_session_of_block(
    session: Session, *, specimen_id: str, block_id: str, cutting_session_id: str
) -> CuttingSession:
    """The cutting session; 404 where it is one of another block."""
    found = one(session, CuttingSession, cutting_session_id)
    if (found.specimen_id, found.block_id) != (specimen_id, block_id):
        raise missing("cutting session", f"{cutting_session_id} of block {block_id}")
    return found


def _cutting_values(session: Session, new: CuttingSessionCreate) -> Values:
    refuse_taken(session, CuttingSession, new.cutting_session_id)
    block = _only_block(session, new.block_id, specimen_id=None)
    return values_of(new, CuttingSession) | {"specimen_id": block.specimen_id}


def _change_cutting(
    session: Session, found: CuttingSession, update: CuttingSessionUpdate
) -> None:
    """Its block changes only while it is empty."""
    block_id = update.block_id or found.block_id
    specimen_id = update.specimen_id or found.specimen_id
    if (specimen_id, block_id) != (found.specimen_id, found.block_id):
        _only_block(session, block_id, specimen_id=specimen_id)
        # Sections hold copies of specimen and block, which would stay behind.
        if has(session, Section.cutting_session_id == found.cutting_session_id):
            raise wrong(
                409,
                f"cutting session {found.cutting_session_id} has sections, which hang "
                "on its block; it cannot move to another one",
            )
    change(found, update)


def _only_block(session: Session, block_id: str, *, specimen_id: str | None) -> Block:
    """The block of that id; 409 where several specimens have one and none is named."""
    query = select(Block).where(Block.block_id == block_id)
    if specimen_id is not None:
        query = query.where(Block.specimen_id == specimen_id)
    # Two are enough to know that there are several.
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


def _change_substrate(
    session: Session, found: Substrate, update: SubstrateUpdate
) -> None:
    """Its id changes only while it is empty."""
    if update.media_id is not None and update.media_id != found.media_id:
        refuse_taken(session, Substrate, update.media_id)
        if has(session, Section.media_id == found.media_id):
            raise wrong(
                409,
                f"substrate {found.media_id} has sections, which are named after it; "
                "it keeps its id",
            )
    change(found, update)


_OF_BLOCK = {
    "specimen_id": CuttingSession.specimen_id,
    "block_id": CuttingSession.block_id,
}
_OF_SPECIMEN = {"specimen_id": Block.specimen_id}

SPECIMEN = Entity(
    tag="specimens",
    row=Specimen,
    answer=SpecimenResponse,
    collection="/specimens",
    item="/specimens/{specimen_id}",
    new=SpecimenCreate,
    update=SpecimenUpdate,
    used_by={
        "blocks": {"specimen_id": Block.specimen_id},
        # No foreign key guards these: a run has its task's specimen as a copy.
        "acquisitions": {"specimen_id": Acquisition.specimen_id},
    },
    order=[Specimen.id],
    lists=[
        Listing(
            "list_specimens",
            "/specimens",
            "All specimens, in the order in which they came.",
        )
    ],
)
BLOCK = Entity(
    tag="specimens",
    row=Block,
    answer=BlockResponse,
    collection="/blocks",
    item=_BLOCK,
    new=BlockCreate,
    update=BlockUpdate,
    find=_find_block,
    values=_block_values,
    used_by={
        # Both columns: a block's id is unique only within its specimen.
        "cutting sessions": {
            "specimen_id": CuttingSession.specimen_id,
            "block_id": CuttingSession.block_id,
        }
    },
    order=[Block.id],
    lists=[
        Listing(
            "list_blocks",
            "/blocks",
            "All blocks, or those of one specimen.",
            _OF_SPECIMEN,
        ),
        *(
            Listing(
                "list_blocks_of_specimen",
                path,
                "The blocks of one specimen.",
                _OF_SPECIMEN,
            )
            # The published client asks one for blocks, the other for a specimen.
            for path in (_BLOCKS, "/specimens/{specimen_id}/blocks")
        ),
    ],
)
CUTTING_SESSION = Entity(
    tag="sections",
    row=CuttingSession,
    answer=CuttingSessionResponse,
    collection="/cutting-sessions",
    item="/cutting-sessions/{cutting_session_id}",
    get_item=SESSION_OF_BLOCK,
    new=CuttingSessionCreate,
    update=CuttingSessionUpdate,
    get=find_session_of_block,
    values=_cutting_values,
    changed=_change_cutting,
    used_by={"sections": {"cutting_session_id": Section.cutting_session_id}},
    order=[CuttingSession.start_time],
    lists=[
        Listing(
            "list_cutting_sessions",
            "/cutting-sessions",
            "Cutting sessions, the oldest first.",
            {**_OF_BLOCK, "operator": CuttingSession.operator},
        ),
        Listing(
            "list_cutting_sessions_of_block",
            _SESSIONS,
            "The cutting sessions of one block.",
            _OF_BLOCK,
        ),
        Listing(
            "list_sessions_of_block",
            f"{_BLOCK}/cut-sessions",
            "The cutting sessions of one block; 404 where there is no such block.",
            _OF_BLOCK,
            within=_find_block,
            tag="specimens",
        ),
    ],
)
SUBSTRATE = Entity(
    tag="substrates",
    row=Substrate,
    answer=SubstrateResponse,
    collection="/substrates",
    item="/substrates/{media_id}",
    new=SubstrateCreate,
    update=SubstrateUpdate,
    changed=_change_substrate,
    used_by={"sections": {"media_id": Section.media_id}},
    order=[Substrate.id],
    lists=[
        Listing(
            "list_substrates",
            "/substrates",
            "Substrates, in the order in which they came.",
            {"media_type": Substrate.media_type, "status": Substrate.status},
        )
    ],
)

for _entity in (SPECIMEN, BLOCK, CUTTING_SESSION, SUBSTRATE):
    add_entity(router, _entity)


_IMAGES = "/specimens/{specimen_id}/images"


@router.post(_IMAGES, response_model=SpecimenResponse, tags=["specimens"])
def add_image(specimen_id: str, new: SpecimenImage, db: Db) -> Specimen:
    """A specimen with one more picture."""
    return _with_images(specimen_id, db, added={new.image_url})


@router.delete(_IMAGES, response_model=SpecimenResponse, tags=["specimens"])
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
        # A new list: SQLAlchemy does not see a change within a JSON value.
        found.specimen_images = sorted(images - removed)
        found.updated_at = now()
    return found
