"""The two tables of a ledger: files as they lie on disk, and what became complete."""

from dataclasses import dataclass

from sqlalchemy import Column, Float, Integer, MetaData, String, Table

TABLES = MetaData()
FILES = Table(
    "files", TABLES,
    Column("path", String, primary_key=True),
    Column("session", String, index=True),
    Column("mark", String),
    Column("since", Float),
    Column("complete", Integer),
    Column("key", String, index=True),
    Column("series", String),
    Column("angle_deg", Float),
)  # fmt: skip
ARRIVALS = Table(
    "arrivals", TABLES,
    Column("number", Integer, primary_key=True),
    Column("kind", String),
    Column("key", String, index=True),
    Column("session", String),
    Column("mark", String),
)  # fmt: skip

MOVIE, TILT_MOVIE, TILT_SERIES, SESSION = (
    "movie",
    "tilt movie",
    "tilt series",
    "session",
)
EARLY_MOVIE = "movie, early"
"""Not known yet whether it is a tilt: what is the same of both can be made of it."""

# Of a file: it changes, it is taken, or it is whole and not known to be a tilt or none.
CHANGING, TAKEN, UNDECIDED = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What became complete; a new mark under an old key asks for it once more."""

    number: int
    kind: str
    key: str
    session: str
    mark: str
