"""What all tables of TEM DB share: names of constraints, and kinds of columns."""

import secrets
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeAlias

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    MetaData,
    String,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator[datetime]):
    """A time in UTC; one without a zone is taken as UTC, as SQLite keeps none."""

    impl = DateTime(timezone=True)
    # It has no state, so SQLAlchemy may keep the statements in which it stands.
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        return None if value is None else in_utc(value)

    def process_result_value(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        return None if value is None else in_utc(value)


# Else None were kept as JSON's `null`, which is no NULL to a query.
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Document: TypeAlias = dict[str, Any]
"""A JSON object, as a column or an answer has it."""
LongText = Annotated[str, mapped_column(Text)]


class Base(DeclarativeBase):
    """The tables; a migration names each constraint as it is named here."""

    # SQLite gives no names by itself, and Alembic changes constraints only by name.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # Names are indexed: 255 characters of four bytes stay below PostgreSQL's limit of
    # 2.7 kB for an entry of an index.
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        Document: Json,
        datetime: Moment,
        float: Double,
        list[Any]: Json,
        list[str]: Json,
        str: String(255),
        uuid.UUID: Uuid,
    }


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


class Row(Base):
    """One entity with a number of its own, and when it came and changed."""

    __abstract__ = True

    # The number first and the times last, whatever a table adds between them.
    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(default=now, sort_order=90)
    updated_at: Mapped[datetime | None] = mapped_column(sort_order=91)


class KeyedRow(Base):
    """One entity whose key is a UUID, and when it came and changed."""

    __abstract__ = True

    created_at: Mapped[datetime] = mapped_column(default=now, sort_order=90)
    updated_at: Mapped[datetime | None] = mapped_column(sort_order=91)


# Routes run in threads: two of them must never take the same tick.
_lock = threading.Lock()
_last = 0


def uuid7() -> uuid.UUID:
    """A new UUID of version 7 (RFC 9562), larger than every one made here before.

    Milliseconds, then 12 bits of their fraction, then 62 random bits.
    """
    global _last
    with _lock:
        # RFC 9562, 6.2, method 3. A clock that stands or goes back is outrun by 1.
        ticks = max(time.time_ns() * 4096 // 1_000_000, _last + 1)
        _last = ticks
    # Version 7 and variant 0b10 stand at their bits (RFC 9562, 5.7).
    number = (ticks >> 12) << 80
    number |= 0x7 << 76 | (ticks & 0xFFF) << 64
    number |= 0b10 << 62 | secrets.randbits(62)
    return uuid.UUID(int=number)


def refers(column: str, **more: Any) -> MappedColumn[Any]:
    """A column whose values are in another table's column; its type is that one's."""
    return mapped_column(ForeignKey(column), **more)


def one_of(column: str, *values: str) -> CheckConstraint:
    """The rule that a column has one of these values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_is_known")
