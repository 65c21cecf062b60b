"""What was imaged: tasks, acquisitions (runs), tiles; datasets, scopes, lenses."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Text,
    Uuid,
)
from sqlalchemy.orm import Mapped, mapped_column

from em_platform.temdb.tables.columns import (
    Base,
    Document,
    Json,
    KeyedRow,
    Moment,
    Name,
    Row,
    now,
    uuid7,
)


class Dataset(KeyedRow):
    """The runs that belong together, with all their tiles."""

    __tablename__ = "datasets"

    dataset_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(Name, unique=True)
    description: Mapped[str | None] = mapped_column(Text)
    specimen_id: Mapped[str | None] = mapped_column(
        ForeignKey("specimens.specimen_id"), index=True
    )
    parent_dataset_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("datasets.dataset_id"), index=True
    )
    size_class: Mapped[str] = mapped_column(Name)
    estimated_tile_count: Mapped[int | None] = mapped_column(BigInteger)
    tile_hash_modulus: Mapped[int | None]
    status: Mapped[str] = mapped_column(Name, default="collecting")
    metadata_json: Mapped[Document | None] = mapped_column(Json)
    collected_at: Mapped[datetime | None] = mapped_column(Moment)
    archived_at: Mapped[datetime | None] = mapped_column(Moment)


class Microscope(KeyedRow):
    """One instrument."""

    __tablename__ = "microscopes"

    microscope_id: Mapped[uuid.UUID] = mapped_column(
        Uuid, primary_key=True, default=uuid7
    )
    label: Mapped[str] = mapped_column(Name, unique=True)
    microscope_type: Mapped[str] = mapped_column(Name, default="TEM")
    model: Mapped[str | None] = mapped_column(Name)
    location: Mapped[str | None] = mapped_column(Name)
    notes: Mapped[str | None] = mapped_column(Text)


class LensCorrection(KeyedRow):
    """The lens of one instrument at one magnification, since a moment."""

    __tablename__ = "lens_corrections"
    __table_args__ = (
        Index(
            "ix_lens_corrections_current",
            "microscope_id",
            "magnification",
            "started_at",
        ),
    )

    lc_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7)
    microscope_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("microscopes.microscope_id")
    )
    magnification: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(Moment)
    source_run_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    source_dataset_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    shared_transform: Mapped[Document | None] = mapped_column(Json)
    correction_x_uri: Mapped[str | None] = mapped_column(Text)
    correction_y_uri: Mapped[str | None] = mapped_column(Text)
    solver_params: Mapped[Document | None] = mapped_column(Json)


class Task(Row):
    """The plan to image a region; its state follows from its runs."""

    __tablename__ = "acquisition_tasks"
    __table_args__ = (
        CheckConstraint("kind IN ('montage', 'lens_correction')", name="kind_is_known"),
    )

    task_id: Mapped[str] = mapped_column(Name, unique=True)
    specimen_id: Mapped[str | None] = mapped_column(Name, index=True)
    block_id: Mapped[str | None] = mapped_column(Name)
    roi_id: Mapped[str | None] = mapped_column(ForeignKey("rois.roi_id"), index=True)
    kind: Mapped[str] = mapped_column(Name, default="montage")
    task_group_id: Mapped[uuid.UUID | None] = mapped_column(Uuid, index=True)
    tilt_angle_deg: Mapped[float | None] = mapped_column(Double)
    sub_region: Mapped[Document | None] = mapped_column(Json)
    tags: Mapped[list[str]] = mapped_column(Json, default=list)
    metadata_json: Mapped[Document] = mapped_column(Json, default=dict)
    superseded_by: Mapped[str | None] = mapped_column(
        ForeignKey("acquisition_tasks.task_id")
    )
    dataset_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)


class Acquisition(Row):
    """One run of a task. How it ended is written once, with its end."""

    __tablename__ = "acquisitions"
    __table_args__ = (
        CheckConstraint(
            "(status IS NULL) = (end_time IS NULL)", name="ended_runs_have_an_end"
        ),
        CheckConstraint(
            "status IN ('complete', 'aborted', 'failed')", name="status_is_known"
        ),
        CheckConstraint(
            "qc_state IN ('pending', 'qc_pass', 'qc_fail', 'needs_review')",
            name="qc_state_is_known",
        ),
        CheckConstraint(
            "transfer_state IN ('not_started', 'in_progress', 'complete', 'error')",
            name="transfer_state_is_known",
        ),
        CheckConstraint("kind IN ('montage', 'lens_correction')", name="kind_is_known"),
        Index("ix_acquisitions_start_time", "start_time", "id"),
        Index("ix_acquisitions_roi_id", "roi_id", "start_time"),
        Index("ix_acquisitions_specimen_id", "specimen_id", "start_time"),
    )

    acquisition_id: Mapped[str] = mapped_column(Name, unique=True)
    run_id: Mapped[uuid.UUID] = mapped_column(Uuid, unique=True, default=uuid7)
    montage_id: Mapped[str] = mapped_column(Name, index=True)
    specimen_id: Mapped[str | None] = mapped_column(Name)
    roi_id: Mapped[str | None] = mapped_column(ForeignKey("rois.roi_id"))
    acquisition_task_id: Mapped[str] = mapped_column(
        ForeignKey("acquisition_tasks.task_id"), index=True
    )
    microscope_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("microscopes.microscope_id")
    )
    dataset_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("datasets.dataset_id"), index=True
    )
    kind: Mapped[str] = mapped_column(Name)
    lc_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("lens_corrections.lc_id")
    )
    hardware_settings: Mapped[Document] = mapped_column(Json)
    acquisition_settings: Mapped[Document] = mapped_column(Json)
    calibration_info: Mapped[Document | None] = mapped_column(Json)
    tilt_angle_deg: Mapped[float | None] = mapped_column(Double)
    storage_locations: Mapped[list[Any] | None] = mapped_column(Json)
    montage_set_name: Mapped[str | None] = mapped_column(Name)
    sub_region: Mapped[Document | None] = mapped_column(Json)
    replaces_acquisition_id: Mapped[str | None] = mapped_column(
        ForeignKey("acquisitions.acquisition_id")
    )
    status: Mapped[str | None] = mapped_column(Name)
    error_message: Mapped[str | None] = mapped_column(Text)
    qc_state: Mapped[str] = mapped_column(Name, default="pending")
    qc_state_updated_at: Mapped[datetime | None] = mapped_column(Moment)
    qc_state_updated_by: Mapped[str | None] = mapped_column(Name)
    transfer_state: Mapped[str] = mapped_column(Name, default="not_started")
    transfer_state_updated_at: Mapped[datetime | None] = mapped_column(Moment)
    transfer_state_updated_by: Mapped[str | None] = mapped_column(Name)
    tile_count: Mapped[int | None]
    avg_focus_score: Mapped[float | None] = mapped_column(Double)
    failed_tile_count: Mapped[int | None]
    median_match_quality: Mapped[float | None] = mapped_column(Double)
    start_time: Mapped[datetime] = mapped_column(Moment, default=now)
    end_time: Mapped[datetime | None] = mapped_column(Moment)


class Tile(Base):
    """One frame of a run; never changed once it is there.

    What the maps and filters ask of the matches stands in columns of its own, before
    the matches themselves: those are long, and most questions do not read them.
    """

    __tablename__ = "tiles"

    dataset_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("datasets.dataset_id"), primary_key=True
    )
    run_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("acquisitions.run_id"), primary_key=True
    )
    raster_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tile_id: Mapped[uuid.UUID] = mapped_column(Uuid, unique=True, default=uuid7)
    stage_x_nm: Mapped[float] = mapped_column(Double)
    stage_y_nm: Mapped[float] = mapped_column(Double)
    montage_row: Mapped[int]
    montage_col: Mapped[int]
    focus_score: Mapped[float] = mapped_column(Double)
    min_value: Mapped[float] = mapped_column(Double)
    max_value: Mapped[float] = mapped_column(Double)
    mean_value: Mapped[float] = mapped_column(Double)
    std_value: Mapped[float] = mapped_column(Double)
    row_match_quality: Mapped[float | None] = mapped_column(Double)
    col_match_quality: Mapped[float | None] = mapped_column(Double)
    worst_match_quality: Mapped[float | None] = mapped_column(Double)
    most_dx: Mapped[float | None] = mapped_column(Double)
    most_dy: Mapped[float | None] = mapped_column(Double)
    created_at: Mapped[datetime] = mapped_column(Moment, default=now)
    image_path: Mapped[str] = mapped_column(Text)
    supertile_id: Mapped[str | None] = mapped_column(Name)
    supertile_raster_position: Mapped[Document | None] = mapped_column(Json)
    stage_other: Mapped[Document | None] = mapped_column(Json)  # axes beside x and y
    matcher: Mapped[list[Any] | None] = mapped_column(Json)
