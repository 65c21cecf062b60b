"""Sections: the slices on a substrate."""

from fastapi import APIRouter
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from temdb.models import (
    SectionCreate,
    SectionQuality,
    SectionResponse,
    SectionUpdate,
)

from em_platform.temdb.columns import now
from em_platform.temdb.routes.entities import (
    Entity,
    Filter,
    Listing,
    add_entity,
    filtered,
)
from em_platform.temdb.routes.preparation import (
    CUTTING_SESSION,
    SESSION_OF_BLOCK,
    SUBSTRATE,
    find_session_of_block,
)
from em_platform.temdb.routes.rows import (
    Db,
    Values,
    missing,
    one,
    refuse_taken,
    values_of,
)
from em_platform.temdb.tables import CuttingSession, Roi, Section, Substrate

router = APIRouter()


def _section_values(session: Session, new: SectionCreate) -> Values:
    """The section's id is made of its medium and number."""
    cut = one(session, CuttingSession, new.cutting_session_id)
    one(session, Substrate, new.media_id)
    section_id = f"{new.media_id}_S{new.section_number}"
    refuse_taken(session, Section, section_id)
    lineage = {"specimen_id": cut.specimen_id, "block_id": cut.block_id}
    # In this order: a time that is given counts, parents are the session's.
    values = {"timestamp": now()} | values_of(new, Section) | lineage
    return values | {"section_id": section_id}


# A section's id is enough to find it; upstream's path names its session, too.
def _find_section(
    session: Session, *, cutting_session_id: str, section_id: str
) -> Section:
    found = one(session, Section, section_id)
    if found.cutting_session_id != cutting_session_id:
        raise missing("section", f"{section_id} of session {cutting_session_id}")
    return found


_IN_SESSION = {"cutting_session_id": Section.cutting_session_id}
_ON_MEDIA = {"media_id": Section.media_id}
_OF_SPECIMEN = {"specimen_id": Section.specimen_id}
_OF_BLOCK = {"block_id": Section.block_id}
_FILTERS: dict[str, Filter] = {
    **_OF_SPECIMEN,
    **_OF_BLOCK,
    **_IN_SESSION,
    **_ON_MEDIA,
    "quality": (
        SectionQuality,
        lambda quality: Section.section_metrics["quality"].as_string() == quality.value,
    ),
}

SECTION = Entity(
    tag="sections",
    row=Section,
    answer=SectionResponse,
    collection="/sections",
    item="/sections/sessions/{cutting_session_id}/sections/{section_id}",
    new=SectionCreate,
    update=SectionUpdate,
    find=_find_section,
    values=_section_values,
    has_batch=True,
    used_by={"ROIs": {"section_id": Roi.section_id}},
    order=[Section.section_number, Section.id],
    lists=[
        Listing(
            "list_sections",
            "/sections",
            "Sections, in the order of their numbers.",
            _FILTERS,
        ),
        Listing(
            "list_sections_of_block_session",
            f"{SESSION_OF_BLOCK}/sections",
            "The sections of one cutting session of one block.",
            _IN_SESSION,
            within=find_session_of_block,
        ),
        Listing(
            "list_sections_of_session",
            "/sections/sessions/{cutting_session_id}",
            "The sections of one cutting session; 404 where there is no such session.",
            _IN_SESSION,
            within=CUTTING_SESSION.found,
        ),
        Listing(
            "list_sections_of_block",
            "/sections/blocks/{block_id}",
            "The sections of one block.",
            _OF_BLOCK,
        ),
        Listing(
            "list_sections_of_specimen",
            "/sections/specimens/{specimen_id}",
            "The sections of one specimen.",
            _OF_SPECIMEN,
        ),
        Listing(
            "list_sections_of_media",
            "/sections/media/{media_id}",
            "The sections on one substrate; `relative_position`: the aperture's index.",
            {**_ON_MEDIA, "relative_position": Section.aperture_index},
        ),
        Listing(
            "list_sections_of_barcode",
            "/sections/barcode/{barcode}",
            "The sections with one barcode.",
            {"barcode": Section.barcode},
            order=[Section.id],
        ),
        Listing(
            "list_sections_of_substrate",
            "/substrates/{media_id}/sections",
            "The sections on one substrate; 404 where there is no such substrate.",
            _ON_MEDIA,
            within=SUBSTRATE.found,
            tag="substrates",
        ),
    ],
)
add_entity(router, SECTION)


@router.get("/sections/count", tags=["sections"])
def count_sections(
    db: Db,
    specimen_id: str | None = None,
    block_id: str | None = None,
    cutting_session_id: str | None = None,
    media_id: str | None = None,
    quality: SectionQuality | None = None,
) -> int:
    """How many sections there are."""
    given = {
        "specimen_id": specimen_id,
        "block_id": block_id,
        "cutting_session_id": cutting_session_id,
        "media_id": media_id,
        "quality": quality,
    }
    with db.reading() as session:
        query = filtered(select(func.count(Section.id)), _FILTERS, given)
        return session.scalar(query) or 0
