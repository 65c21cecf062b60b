"""The table of what the microscope said; apart, as most that speak of events need none.

SQLAlchemy takes 0.15 s to import.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()
events = Table(
    "events",
    metadata,
    # SQLite numbers without gaps and never twice only a plain INTEGER.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("topic", String(80), nullable=False),
    Column("acquisition_id", String(200), index=True),
    Column("montage_id", String(200)),
    Column("tile_id", String(200)),
    Column("body", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),  # ms since 1970
    Index("events_by_topic", "topic", "seq"),
    Index("events_by_montage", "montage_id", "topic"),
    sqlite_autoincrement=True,
)
