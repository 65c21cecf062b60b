"""What was prepared: specimens, blocks, cuttings, substrates, sections, regions."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from em_platform.temdb.tables.columns import Document, Json, Moment, Name, Row


class Specimen(Row):
    """What all else comes from."""

    __tablename__ = "specimens"

    specimen_id: Mapped[str] = mapped_column(Name, unique=True)
    description: Mapped[str | None] = mapped_column(Text)
    specimen_images: Mapped[list[str] | None] = mapped_column(Json)
    functional_imaging_metadata: Mapped[Document | None] = mapped_column(Json)


class Block(Row):
    """A piece of a specimen in resin; its id is unique within the specimen."""

    __tablename__ = "blocks"
    __table_args__ = (UniqueConstraint("specimen_id", "block_id"),)

    block_id: Mapped[str] = mapped_column(Name, index=True)
    specimen_id: Mapped[str] = mapped_column(
        ForeignKey("specimens.specimen_id"), index=True
    )
    microCT_info: Mapped[Document | None] = mapped_column(Json)  # noqa: N815
    description: Mapped[str | None] = mapped_column(Text)


class CuttingSession(Row):
    """One session at the microtome."""

    __tablename__ = "cutting_sessions"
    __table_args__ = (
        ForeignKeyConstraint(
            ["specimen_id", "block_id"], ["blocks.specimen_id", "blocks.block_id"]
        ),
    )

    cutting_session_id: Mapped[str] = mapped_column(Name, unique=True)
    specimen_id: Mapped[str] = mapped_column(Name, index=True)
    block_id: Mapped[str] = mapped_column(Name, index=True)
    start_time: Mapped[datetime] = mapped_column(Moment)
    end_time: Mapped[datetime | None] = mapped_column(Moment)
    operator: Mapped[str | None] = mapped_column(Name)
    sectioning_device: Mapped[str] = mapped_column(Name)
    media_type: Mapped[str] = mapped_column(Name)
    knife_id: Mapped[str | None] = mapped_column(Name)


class Substrate(Row):
    """A wafer, tape, stick or grid that carries sections."""

    __tablename__ = "substrates"

    media_id: Mapped[str] = mapped_column(Name, unique=True)
    media_type: Mapped[str] = mapped_column(Name)
    uid: Mapped[str | None] = mapped_column(Name)
    status: Mapped[str | None] = mapped_column(Name, default="new")
    refpoint: Mapped[Document | None] = mapped_column(Json)
    refpoint_world: Mapped[Document | None] = mapped_column(Json)
    source_path: Mapped[str | None] = mapped_column(Text)
    metadata_json: Mapped[Document | None] = mapped_column(Json)
    apertures: Mapped[list[Any] | None] = mapped_column(Json)


class Section(Row):
    """One slice on a substrate; its id is `<media_id>_S<section_number>`."""

    __tablename__ = "sections"
    __table_args__ = (
        CheckConstraint(
            "condition IN ('ok', 'damaged', 'destroyed', 'contaminated', 'lost')",
            name="condition_is_known",
        ),
        CheckConstraint("section_number > 0", name="section_number_is_positive"),
    )

    section_id: Mapped[str] = mapped_column(Name, unique=True)
    cutting_session_id: Mapped[str] = mapped_column(
        ForeignKey("cutting_sessions.cutting_session_id"), index=True
    )
    specimen_id: Mapped[str] = mapped_column(Name, index=True)
    block_id: Mapped[str] = mapped_column(Name, index=True)
    media_id: Mapped[str] = mapped_column(ForeignKey("substrates.media_id"), index=True)
    section_number: Mapped[int]
    timestamp: Mapped[datetime | None] = mapped_column(Moment)
    optical_image: Mapped[Document | None] = mapped_column(Json)
    aperture_uid: Mapped[str | None] = mapped_column(Name)
    aperture_index: Mapped[int | None]
    barcode: Mapped[str | None] = mapped_column(Name, index=True)
    section_metrics: Mapped[Document | None] = mapped_column(Json)
    run_parameters: Mapped[Document | None] = mapped_column(Json)
    condition: Mapped[str] = mapped_column(Name, default="ok")
    condition_reason: Mapped[str | None] = mapped_column(Text)


class Roi(Row):
    """A region of a section that is to be imaged, or a part of such a region."""

    __tablename__ = "rois"

    roi_id: Mapped[str] = mapped_column(Text, unique=True)
    roi_number: Mapped[int]
    section_id: Mapped[str] = mapped_column(
        ForeignKey("sections.section_id"), index=True
    )
    specimen_id: Mapped[str] = mapped_column(Name, index=True)
    block_id: Mapped[str] = mapped_column(Name)
    substrate_media_id: Mapped[str] = mapped_column(
        ForeignKey("substrates.media_id"), index=True
    )
    section_number: Mapped[int | None]
    parent_roi_id: Mapped[str | None] = mapped_column(
        ForeignKey("rois.roi_id"), index=True
    )
    hierarchy_level: Mapped[int]
    roi_payload: Mapped[Document | None] = mapped_column(Json)
