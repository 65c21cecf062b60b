"""One acquisition with all that it hangs on."""

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from temdb.models import AcquisitionFullMetadata, AcquisitionResponse

from em_platform.temdb.tables import (
    Acquisition,
    Base,
    Block,
    CuttingSession,
    Roi,
    Section,
    Specimen,
    Substrate,
    Task,
)


def full_metadata(session: Session, run: Acquisition) -> AcquisitionFullMetadata:
    """The run, its task, and the specimen down to the region; what is not is null."""
    query = (
        select(Task, Roi, Section, CuttingSession, Block, Specimen, Substrate)
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
        acquisition_task=_shown(task),
        roi=_shown(roi),
        section=_shown(section),
        cutting_session=_shown(cut),
        block=_shown(block),
        specimen=_shown(specimen),
        substrate=_shown(substrate),
    )


def _shown(row: Base | None) -> dict[str, Any] | None:
    if row is None:
        return None
    values = {name: getattr(row, name) for name in row.__mapper__.columns.keys()}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }
