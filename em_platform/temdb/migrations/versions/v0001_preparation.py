"""Specimens, blocks, cuttings, substrates, sections and regions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out, not taken from `columns`: a migration stays as it once ran.
NAME = sa.String(255)
TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

INDEXES = {
    "ix_blocks_block_id": ("blocks", ["block_id"]),
    "ix_blocks_specimen_id": ("blocks", ["specimen_id"]),
    "ix_cutting_sessions_block_id": ("cutting_sessions", ["block_id"]),
    "ix_cutting_sessions_specimen_id": ("cutting_sessions", ["specimen_id"]),
    "ix_sections_barcode": ("sections", ["barcode"]),
    "ix_sections_block_id": ("sections", ["block_id"]),
    "ix_sections_cutting_session_id": ("sections", ["cutting_session_id"]),
    "ix_sections_media_id": ("sections", ["media_id"]),
    "ix_sections_specimen_id": ("sections", ["specimen_id"]),
    "ix_rois_parent_roi_id": ("rois", ["parent_roi_id"]),
    "ix_rois_section_id": ("rois", ["section_id"]),
    "ix_rois_specimen_id": ("rois", ["specimen_id"]),
    "ix_rois_substrate_media_id": ("rois", ["substrate_media_id"]),
}


def upgrade() -> None:
    """To this version."""
    _specimens()
    _blocks()
    _cutting_sessions()
    _substrates()
    _sections()
    _rois()
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    """Back to the version before."""
    # Children first: foreign keys forbid the reverse.
    op.drop_table("rois")
    op.drop_table("sections")
    op.drop_table("substrates")
    op.drop_table("cutting_sessions")
    op.drop_table("blocks")
    op.drop_table("specimens")


def _specimens() -> None:
    op.create_table(
        "specimens",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("specimen_id", NAME, unique=True, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("specimen_images", JSON),
        sa.Column("functional_imaging_metadata", JSON),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
    )


def _blocks() -> None:
    op.create_table(
        "blocks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("block_id", NAME, nullable=False),
        sa.Column(
            "specimen_id", NAME, sa.ForeignKey("specimens.specimen_id"), nullable=False
        ),
        sa.Column("microCT_info", JSON),
        sa.Column("description", sa.Text),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
        sa.UniqueConstraint("specimen_id", "block_id"),
    )


def _cutting_sessions() -> None:
    op.create_table(
        "cutting_sessions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("cutting_session_id", NAME, unique=True, nullable=False),
        sa.Column("specimen_id", NAME, nullable=False),
        sa.Column("block_id", NAME, nullable=False),
        sa.Column("start_time", TIME, nullable=False),
        sa.Column("end_time", TIME),
        sa.Column("operator", NAME),
        sa.Column("sectioning_device", NAME, nullable=False),
        sa.Column("media_type", NAME, nullable=False),
        sa.Column("knife_id", NAME),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
        sa.ForeignKeyConstraint(
            ["specimen_id", "block_id"], ["blocks.specimen_id", "blocks.block_id"]
        ),
    )


def _substrates() -> None:
    op.create_table(
        "substrates",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("media_id", NAME, unique=True, nullable=False),
        sa.Column("media_type", NAME, nullable=False),
        sa.Column("uid", NAME),
        sa.Column("status", NAME),
        sa.Column("refpoint", JSON),
        sa.Column("refpoint_world", JSON),
        sa.Column("source_path", sa.Text),
        sa.Column("metadata_json", JSON),
        sa.Column("apertures", JSON),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
    )


def _sections() -> None:
    op.create_table(
        "sections",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("section_id", NAME, unique=True, nullable=False),
        sa.Column(
            "cutting_session_id",
            NAME,
            sa.ForeignKey("cutting_sessions.cutting_session_id"),
            nullable=False,
        ),
        sa.Column("specimen_id", NAME, nullable=False),
        sa.Column("block_id", NAME, nullable=False),
        sa.Column(
            "media_id", NAME, sa.ForeignKey("substrates.media_id"), nullable=False
        ),
        sa.Column("section_number", sa.Integer, nullable=False),
        sa.Column("timestamp", TIME),
        sa.Column("optical_image", JSON),
        sa.Column("aperture_uid", NAME),
        sa.Column("aperture_index", sa.Integer),
        sa.Column("barcode", NAME),
        sa.Column("section_metrics", JSON),
        sa.Column("run_parameters", JSON),
        sa.Column("condition", NAME, nullable=False),
        sa.Column("condition_reason", sa.Text),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
        sa.CheckConstraint(
            "condition IN ('ok', 'damaged', 'destroyed', 'contaminated', 'lost')",
            name="condition_is_known",
        ),
        sa.CheckConstraint("section_number > 0", name="section_number_is_positive"),
    )


def _rois() -> None:
    op.create_table(
        "rois",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("roi_id", sa.Text, unique=True, nullable=False),
        sa.Column("roi_number", sa.Integer, nullable=False),
        sa.Column(
            "section_id", NAME, sa.ForeignKey("sections.section_id"), nullable=False
        ),
        sa.Column("specimen_id", NAME, nullable=False),
        sa.Column("block_id", NAME, nullable=False),
        sa.Column(
            "substrate_media_id",
            NAME,
            sa.ForeignKey("substrates.media_id"),
            nullable=False,
        ),
        sa.Column("section_number", sa.Integer),
        sa.Column("parent_roi_id", sa.Text, sa.ForeignKey("rois.roi_id")),
        sa.Column("hierarchy_level", sa.Integer, nullable=False),
        sa.Column("roi_payload", JSON),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME),
    )
