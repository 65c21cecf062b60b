"""What all tables of TEM DB share: names of constraints, and kinds of columns."""

import secrets
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, MetaData, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class Base(DeclarativeBase):
    """The tables; a migration names each constraint as it is named here."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Moment(TypeDecorator[datetime]):
    """A time in UTC; one without a zone is taken as UTC, as SQLite keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        return None if value is None else in_utc(value)

    def process_result_value(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        return None if value is None else in_utc(value)


Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Name = String(255)


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC."""
    return (
        moment.replace(tzinfo=UTC)
        if moment.tzinfo is None
        else (moment.astimezone(UTC))
    )


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


class Row(Base):
    """One entity with a number of its own, and when it came and changed."""

    __abstract__ = True

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(Moment, default=now, sort_order=90)
    updated_at: Mapped[datetime | None] = mapped_column(Moment, sort_order=91)


class KeyedRow(Base):
    """One entity whose key is a UUID, and when it came and changed."""

    __abstract__ = True

    created_at: Mapped[datetime] = mapped_column(Moment, default=now, sort_order=90)
    updated_at: Mapped[datetime | None] = mapped_column(Moment, sort_order=91)


Document = dict[str, Any]

_lock = threading.Lock()
_last = 0


def uuid7() -> uuid.UUID:
    """A new UUID of version 7 (RFC 9562), larger than every one made here before.

    Milliseconds, then 12 bits of their fraction, then 62 random bits.
    """
    global _last
    with _lock:
        ticks = max(time.time_ns() * 4096 // 1_000_000, _last + 1)
        _last = ticks
    number = (ticks >> 12) << 80
    number |= 0x7 << 76 | (ticks & 0xFFF) << 64
    number |= 0b10 << 62 | secrets.randbits(62)
    return uuid.UUID(int=number)
