"""The tables: what was prepared, then what was imaged of it."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from em_platform.temdb.columns import (
    Base,
    Document,
    KeyedRow,
    LongText,
    Row,
    now,
    one_of,
    refers,
    uuid7,
)


class Specimen(Row):
    """What all else comes from."""

    __tablename__ = "specimens"

    specimen_id: Mapped[str] = mapped_column(unique=True)
    description: Mapped[LongText | None]
    specimen_images: Mapped[list[str] | None]
    functional_imaging_metadata: Mapped[Document | None]


class Block(Row):
    """A piece of a specimen in resin; its id is unique within the specimen."""

    __tablename__ = "blocks"
    __table_args__ = (UniqueConstraint("specimen_id", "block_id"),)

    block_id: Mapped[str] = mapped_column(index=True)
    specimen_id: Mapped[str] = refers("specimens.specimen_id", index=True)
    microCT_info: Mapped[Document | None]  # noqa: N815
    description: Mapped[LongText | None]


class CuttingSession(Row):
    """One session at the microtome."""

    __tablename__ = "cutting_sessions"
    __table_args__ = (
        ForeignKeyConstraint(
            ["specimen_id", "block_id"], ["blocks.specimen_id", "blocks.block_id"]
        ),
    )

    cutting_session_id: Mapped[str] = mapped_column(unique=True)
    specimen_id: Mapped[str] = mapped_column(index=True)
    block_id: Mapped[str] = mapped_column(index=True)
    start_time: Mapped[datetime]
    end_time: Mapped[datetime | None]
    operator: Mapped[str | None]
    sectioning_device: Mapped[str]
    media_type: Mapped[str]
    knife_id: Mapped[str | None]


class Substrate(Row):
    """A wafer, tape, stick or grid that carries sections."""

    __tablename__ = "substrates"

    media_id: Mapped[str] = mapped_column(unique=True)
    media_type: Mapped[str]
    uid: Mapped[str | None]
    status: Mapped[str | None] = mapped_column(default="new")
    refpoint: Mapped[Document | None]
    refpoint_world: Mapped[Document | None]
    source_path: Mapped[LongText | None]
    metadata_json: Mapped[Document | None]
    apertures: Mapped[list[Any] | None]


class Section(Row):
    """One slice on a substrate; its id is `<media_id>_S<section_number>`."""

    __tablename__ = "sections"
    __table_args__ = (
        one_of("condition", "ok", "damaged", "destroyed", "contaminated", "lost"),
        CheckConstraint("section_number > 0", name="section_number_is_positive"),
    )

    section_id: Mapped[str] = mapped_column(unique=True)
    cutting_session_id: Mapped[str] = refers(
        "cutting_sessions.cutting_session_id", index=True
    )
    # Copies of the cutting session's, by which sections are listed without a join.
    specimen_id: Mapped[str] = mapped_column(index=True)
    block_id: Mapped[str] = mapped_column(index=True)
    media_id: Mapped[str] = refers("substrates.media_id", index=True)
    section_number: Mapped[int]
    timestamp: Mapped[datetime | None]
    optical_image: Mapped[Document | None]
    aperture_uid: Mapped[str | None]
    aperture_index: Mapped[int | None]
    barcode: Mapped[str | None] = mapped_column(index=True)
    section_metrics: Mapped[Document | None]
    run_parameters: Mapped[Document | None]
    condition: Mapped[str] = mapped_column(default="ok")
    condition_reason: Mapped[LongText | None]


class Roi(Row):
    """A region of a section that is to be imaged, or a part of such a region."""

    __tablename__ = "rois"

    # Made of its parents' names, so it may be longer than theirs.
    roi_id: Mapped[LongText] = mapped_column(unique=True)
    roi_number: Mapped[int]
    section_id: Mapped[str] = refers("sections.section_id", index=True)
    specimen_id: Mapped[str] = mapped_column(index=True)
    block_id: Mapped[str]
    substrate_media_id: Mapped[str] = refers("substrates.media_id", index=True)
    section_number: Mapped[int | None]
    parent_roi_id: Mapped[str | None] = refers("rois.roi_id", index=True)
    hierarchy_level: Mapped[int]
    roi_payload: Mapped[Document | None]


class Dataset(KeyedRow):
    """The runs that belong together, with all their tiles."""

    __tablename__ = "datasets"

    dataset_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[LongText | None]
    specimen_id: Mapped[str | None] = refers("specimens.specimen_id", index=True)
    parent_dataset_id: Mapped[uuid.UUID | None] = refers(
        "datasets.dataset_id", index=True
    )
    size_class: Mapped[str]
    # TEM DB is laid out for up to 50 billion tiles: more than 32 bits.
    estimated_tile_count: Mapped[int | None] = mapped_column(BigInteger)
    tile_hash_modulus: Mapped[int | None]
    status: Mapped[str] = mapped_column(default="collecting")
    metadata_json: Mapped[Document | None]
    collected_at: Mapped[datetime | None]
    archived_at: Mapped[datetime | None]


class Microscope(KeyedRow):
    """One instrument."""

    __tablename__ = "microscopes"

    microscope_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    label: Mapped[str] = mapped_column(unique=True)
    microscope_type: Mapped[str] = mapped_column(default="TEM")
    model: Mapped[str | None]
    location: Mapped[str | None]
    notes: Mapped[LongText | None]


class LensCorrection(KeyedRow):
    """The lens of one instrument at one magnification, since a moment."""

    __tablename__ = "lens_corrections"
    __table_args__ = (
        Index(
            # For the newest lens of a microscope at a magnification.
            "ix_lens_corrections_current",
            "microscope_id",
            "magnification",
            "started_at",
        ),
    )

    lc_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    microscope_id: Mapped[uuid.UUID] = refers("microscopes.microscope_id")
    magnification: Mapped[int]
    started_at: Mapped[datetime]
    source_run_id: Mapped[uuid.UUID | None]
    source_dataset_id: Mapped[uuid.UUID | None]
    shared_transform: Mapped[Document | None]
    correction_x_uri: Mapped[LongText | None]
    correction_y_uri: Mapped[LongText | None]
    solver_params: Mapped[Document | None]


class Task(Row):
    """The plan to image a region; its state follows from its runs."""

    __tablename__ = "acquisition_tasks"
    __table_args__ = (one_of("kind", "montage", "lens_correction"),)

    task_id: Mapped[str] = mapped_column(unique=True)
    specimen_id: Mapped[str | None] = mapped_column(index=True)
    block_id: Mapped[str | None]
    roi_id: Mapped[str | None] = refers("rois.roi_id", index=True)
    kind: Mapped[str] = mapped_column(default="montage")
    task_group_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    tilt_angle_deg: Mapped[float | None]
    sub_region: Mapped[Document | None]
    tags: Mapped[list[str]] = mapped_column(default=list)
    metadata_json: Mapped[Document] = mapped_column(default=dict)
    superseded_by: Mapped[str | None] = refers("acquisition_tasks.task_id")
    dataset_id: Mapped[uuid.UUID | None]


class Acquisition(Row):
    """One run of a task. How it ended is written once, with its end."""

    __tablename__ = "acquisitions"
    __table_args__ = (
        CheckConstraint(
            "(status IS NULL) = (end_time IS NULL)", name="ended_runs_have_an_end"
        ),
        one_of("status", "complete", "aborted", "failed"),
        one_of("qc_state", "pending", "qc_pass", "qc_fail", "needs_review"),
        one_of("transfer_state", "not_started", "in_progress", "complete", "error"),
        one_of("kind", "montage", "lens_correction"),
        # As the pages of runs are sorted: the id decides between equal times.
        Index("ix_acquisitions_start_time", "start_time", "id"),
        Index("ix_acquisitions_roi_id", "roi_id", "start_time"),
        Index("ix_acquisitions_specimen_id", "specimen_id", "start_time"),
    )

    acquisition_id: Mapped[str] = mapped_column(unique=True)
    run_id: Mapped[uuid.UUID] = mapped_column(unique=True, default=uuid7)
    montage_id: Mapped[str] = mapped_column(index=True)
    specimen_id: Mapped[str | None]
    roi_id: Mapped[str | None] = refers("rois.roi_id")
    acquisition_task_id: Mapped[str] = refers("acquisition_tasks.task_id", index=True)
    microscope_id: Mapped[uuid.UUID] = refers("microscopes.microscope_id")
    dataset_id: Mapped[uuid.UUID | None] = refers("datasets.dataset_id", index=True)
    kind: Mapped[str]
    lc_id: Mapped[uuid.UUID | None] = refers("lens_corrections.lc_id")
    hardware_settings: Mapped[Document]
    acquisition_settings: Mapped[Document]
    calibration_info: Mapped[Document | None]
    tilt_angle_deg: Mapped[float | None]
    storage_locations: Mapped[list[Any] | None]
    montage_set_name: Mapped[str | None]
    sub_region: Mapped[Document | None]
    replaces_acquisition_id: Mapped[str | None] = refers("acquisitions.acquisition_id")
    status: Mapped[str | None]
    error_message: Mapped[LongText | None]
    qc_state: Mapped[str] = mapped_column(default="pending")
    qc_state_updated_at: Mapped[datetime | None]
    qc_state_updated_by: Mapped[str | None]
    transfer_state: Mapped[str] = mapped_column(default="not_started")
    transfer_state_updated_at: Mapped[datetime | None]
    transfer_state_updated_by: Mapped[str | None]
    tile_count: Mapped[int | None]
    avg_focus_score: Mapped[float | None]
    failed_tile_count: Mapped[int | None]
    median_match_quality: Mapped[float | None]
    start_time: Mapped[datetime] = mapped_column(default=now)
    end_time: Mapped[datetime | None]


class Tile(Base):
    """One frame of a run; never changed once it is there.

    What the maps and filters ask of the matches is in columns of its own, before
    the matches themselves: those are long, and most questions do not read them.
    """

    __tablename__ = "tiles"

    # The key of upstream's table of tiles, which is partitioned.
    dataset_id: Mapped[uuid.UUID] = refers("datasets.dataset_id", primary_key=True)
    run_id: Mapped[uuid.UUID] = refers("acquisitions.run_id", primary_key=True)
    raster_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tile_id: Mapped[uuid.UUID] = mapped_column(unique=True, default=uuid7)
    stage_x_nm: Mapped[float]
    stage_y_nm: Mapped[float]
    montage_row: Mapped[int]
    montage_col: Mapped[int]
    focus_score: Mapped[float]
    min_value: Mapped[float]
    max_value: Mapped[float]
    mean_value: Mapped[float]
    std_value: Mapped[float]
    row_match_quality: Mapped[float | None]
    col_match_quality: Mapped[float | None]
    worst_match_quality: Mapped[float | None]
    most_dx: Mapped[float | None]
    most_dy: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    image_path: Mapped[LongText]
    supertile_id: Mapped[str | None]
    supertile_raster_position: Mapped[Document | None]
    stage_other: Mapped[Document | None]  # axes beside x and y
    matcher: Mapped[list[Any] | None]
