"""Datasets, scopes, lenses, tasks, acquisitions and tiles."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Written out, not taken from `columns`: a migration stays as it once ran.
NAME = sa.String(255)
TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

INDEXES = {
    "ix_datasets_parent_dataset_id": ("datasets", ["parent_dataset_id"]),
    "ix_datasets_specimen_id": ("datasets", ["specimen_id"]),
    "ix_lens_corrections_current": (
        "lens_corrections",
        ["microscope_id", "magnification", "started_at"],
    ),
    "ix_acquisition_tasks_roi_id": ("acquisition_tasks", ["roi_id"]),
    "ix_acquisition_tasks_specimen_id": ("acquisition_tasks", ["specimen_id"]),
    "ix_acquisition_tasks_task_group_id": ("acquisition_tasks", ["task_group_id"]),
    "ix_acquisitions_acquisition_task_id": ("acquisitions", ["acquisition_task_id"]),
    "ix_acquisitions_dataset_id": ("acquisitions", ["dataset_id"]),
    "ix_acquisitions_montage_id": ("acquisitions", ["montage_id"]),
    "ix_acquisitions_roi_id": ("acquisitions", ["roi_id", "start_time"]),
    "ix_acquisitions_specimen_id": ("acquisitions", ["specimen_id", "start_time"]),
    "ix_acquisitions_start_time": ("acquisitions", ["start_time", "id"]),
}


def upgrade() -> None:
    """To this version."""
    _datasets()
    _microscopes()
    _lens_corrections()
    _acquisition_tasks()
    _acquisitions()
    _tiles()
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    """Back to the version before."""
    # Children first: foreign keys forbid the reverse.
    op.drop_table("tiles")
    op.drop_table("acquisitions")
    op.drop_table("acquisition_tasks")
    op.drop_table("lens_corrections")
    op.drop_table("microscopes")
    op.drop_table("datasets")


def _datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("dataset_id", sa.Uuid, primary_key=True),
        sa.Column("name", NAME, unique=True, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("specimen_id", NAME, sa.ForeignKey("specimens.specimen_id")),
        sa.Column("parent_dataset_id", sa.Uuid, sa.ForeignKey("datasets.dataset_id")),
        sa.Column("size_class", NAME, nullable=False),
        sa.Column("estimated_tile_count", sa.BigInteger),
        sa.Column("tile_hash_modulus", sa.Integer),
        sa.Column("status", NAME, nullable=False),
        sa.Column("metadata_json", JSON),
        sa.Column("collected_at", TIME),
        sa.Column("archived_at", TIME),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
    )


def _microscopes() -> None:
    op.create_table(
        "microscopes",
        sa.Column("microscope_id", sa.Uuid, primary_key=True),
        sa.Column("label", NAME, unique=True, nullable=False),
        sa.Column("microscope_type", NAME, nullable=False),
        sa.Column("model", NAME),
        sa.Column("location", NAME),
        sa.Column("notes", sa.Text),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
    )


def _lens_corrections() -> None:
    op.create_table(
        "lens_corrections",
        sa.Column("lc_id", sa.Uuid, primary_key=True),
        sa.Column(
            "microscope_id",
            sa.Uuid,
            sa.ForeignKey("microscopes.microscope_id"),
            nullable=False,
        ),
        sa.Column("magnification", sa.Integer, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("source_run_id", sa.Uuid),
        sa.Column("source_dataset_id", sa.Uuid),
        sa.Column("shared_transform", JSON),
        sa.Column("correction_x_uri", sa.Text),
        sa.Column("correction_y_uri", sa.Text),
        sa.Column("solver_params", JSON),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
    )


def _acquisition_tasks() -> None:
    op.create_table(
        "acquisition_tasks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("task_id", NAME, unique=True, nullable=False),
        sa.Column("specimen_id", NAME),
        sa.Column("block_id", NAME),
        sa.Column("roi_id", sa.Text, sa.ForeignKey("rois.roi_id")),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("task_group_id", sa.Uuid),
        sa.Column("tilt_angle_deg", sa.Double),
        sa.Column("sub_region", JSON),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("metadata_json", JSON, nullable=False),
        sa.Column("superseded_by", NAME, sa.ForeignKey("acquisition_tasks.task_id")),
        sa.Column("dataset_id", sa.Uuid),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
        sa.CheckConstraint(
            "kind IN ('montage', 'lens_correction')",
            name="kind_is_known",
        ),
    )


def _acquisitions() -> None:
    op.create_table(
        "acquisitions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("acquisition_id", NAME, unique=True, nullable=False),
        sa.Column("run_id", sa.Uuid, unique=True, nullable=False),
        sa.Column("montage_id", NAME, nullable=False),
        sa.Column("specimen_id", NAME),
        sa.Column("roi_id", sa.Text, sa.ForeignKey("rois.roi_id")),
        sa.Column(
            "acquisition_task_id",
            NAME,
            sa.ForeignKey("acquisition_tasks.task_id"),
            nullable=False,
        ),
        sa.Column(
            "microscope_id",
            sa.Uuid,
            sa.ForeignKey("microscopes.microscope_id"),
            nullable=False,
        ),
        sa.Column("dataset_id", sa.Uuid, sa.ForeignKey("datasets.dataset_id")),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("lc_id", sa.Uuid, sa.ForeignKey("lens_corrections.lc_id")),
        sa.Column("hardware_settings", JSON, nullable=False),
        sa.Column("acquisition_settings", JSON, nullable=False),
        sa.Column("calibration_info", JSON),
        sa.Column("tilt_angle_deg", sa.Double),
        sa.Column("storage_locations", JSON),
        sa.Column("montage_set_name", NAME),
        sa.Column("sub_region", JSON),
        sa.Column(
            "replaces_acquisition_id",
            NAME,
            sa.ForeignKey("acquisitions.acquisition_id"),
        ),
        sa.Column("status", NAME),
        sa.Column("error_message", sa.Text),
        sa.Column("qc_state", NAME, nullable=False),
        sa.Column("qc_state_updated_at", TIME),
        sa.Column("qc_state_updated_by", NAME),
        sa.Column("transfer_state", NAME, nullable=False),
        sa.Column("transfer_state_updated_at", TIME),
        sa.Column("transfer_state_updated_by", NAME),
        sa.Column("tile_count", sa.Integer),
        sa.Column("avg_focus_score", sa.Double),
        sa.Column("failed_tile_count", sa.Integer),
        sa.Column("median_match_quality", sa.Double),
        sa.Column("start_time", TIME, nullable=False),
        sa.Column("end_time", TIME),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
        *_rules_of_runs(),
    )


def _rules_of_runs() -> list[sa.CheckConstraint]:
    rules = {
        "ended_runs_have_an_end": "(status IS NULL) = (end_time IS NULL)",
        "kind_is_known": "kind IN ('montage', 'lens_correction')",
        "qc_state_is_known": (
            "qc_state IN ('pending', 'qc_pass', 'qc_fail', 'needs_review')"
        ),
        "status_is_known": "status IN ('complete', 'aborted', 'failed')",
        "transfer_state_is_known": (
            "transfer_state IN ('not_started', 'in_progress', 'complete', 'error')"
        ),
    }
    return [sa.CheckConstraint(rule, name=name) for name, rule in rules.items()]


def _tiles() -> None:
    op.create_table(
        "tiles",
        sa.Column(
            "dataset_id",
            sa.Uuid,
            sa.ForeignKey("datasets.dataset_id"),
            primary_key=True,
        ),
        sa.Column(
            "run_id", sa.Uuid, sa.ForeignKey("acquisitions.run_id"), primary_key=True
        ),
        sa.Column("raster_index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tile_id", sa.Uuid, unique=True, nullable=False),
        sa.Column("stage_x_nm", sa.Double, nullable=False),
        sa.Column("stage_y_nm", sa.Double, nullable=False),
        sa.Column("montage_row", sa.Integer, nullable=False),
        sa.Column("montage_col", sa.Integer, nullable=False),
        sa.Column("focus_score", sa.Double, nullable=False),
        sa.Column("min_value", sa.Double, nullable=False),
        sa.Column("max_value", sa.Double, nullable=False),
        sa.Column("mean_value", sa.Double, nullable=False),
        sa.Column("std_value", sa.Double, nullable=False),
        sa.Column("row_match_quality", sa.Double),
        sa.Column("col_match_quality", sa.Double),
        sa.Column("worst_match_quality", sa.Double),
        sa.Column("most_dx", sa.Double),
        sa.Column("most_dy", sa.Double),
        sa.Column("created_at", TIME, nullable=False),
        # Long columns last: most questions do not read them.
        sa.Column("image_path", sa.Text, nullable=False),
        sa.Column("supertile_id", NAME),
        sa.Column("supertile_raster_position", JSON),
        sa.Column("stage_other", JSON),
        sa.Column("matcher", JSON),
    )
