"""The buffer's journal: its tables, and what a row of them says."""

from dataclasses import dataclass

from em_platform.messaging.topics import Body

# `said_at` is a name of the first release, which journals on disk have.
# `tiles_unread` is asked ten times a second: partial, it is nearly empty.
TABLES = """
CREATE TABLE IF NOT EXISTS montages (
    acquisition_id TEXT PRIMARY KEY,
    montage_id TEXT NOT NULL,
    is_cancelled INTEGER NOT NULL,
    body TEXT NOT NULL,
    said_at REAL NOT NULL,
    answered_at REAL,
    freed_at REAL,
    bodies_freed_at REAL,
    sentence TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS tiles (
    tile_id TEXT PRIMARY KEY,
    montage_id TEXT NOT NULL,
    acquisition_id TEXT NOT NULL,
    body TEXT NOT NULL,
    said_at REAL NOT NULL,
    state TEXT NOT NULL,
    sha256 TEXT,
    bytes INTEGER,
    mtime_ns INTEGER,
    height_px INTEGER,
    width_px INTEGER,
    bits INTEGER,
    sentence TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS tiles_by_acquisition ON tiles (acquisition_id);
CREATE INDEX IF NOT EXISTS tiles_by_montage ON tiles (montage_id);
CREATE INDEX IF NOT EXISTS tiles_by_state ON tiles (state);
CREATE INDEX IF NOT EXISTS tiles_unread ON tiles (state) WHERE sha256 IS NULL;
CREATE TABLE IF NOT EXISTS notes (
    tile_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (tile_id, topic)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rois (montage_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS instruments (
    montage_id TEXT PRIMARY KEY, body TEXT NOT NULL
);
"""

IMAGED, SENT, REFUSED, FREED = "imaged", "sent", "refused", "freed"
"""States of a tile: on disk; verified by aloha; rejected; deleted from the disk."""

PRELIMINARY = "preliminary verdict"
"""Topic of the note on a verdict that another one may supersede."""

SUPERSEDED = "superseded"
"""State of a tile that was imaged again: it is not sent, and deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MontageRow:
    """An acquisition that has ended, by `montage.complete` or because it was cancelled.

    `answered_at` is when aloha verified it, or got the cancellation (s since 1970).
    `sentence` says what blocks it. `body` is that of `montage.complete`, or the
    `reason` of the cancellation, and `ended_at`.
    """

    acquisition_id: str
    montage_id: str
    is_cancelled: bool
    body: Body
    received_at: float
    answered_at: float | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRow:
    """A frame on the disk; what stands behind `sha256` is None until it was read."""

    tile_id: str
    montage_id: str
    acquisition_id: str
    body: Body
    sent_at: float
    state: str
    sha256: str | None
    bytes: int | None
    mtime_ns: int | None
    height_px: int | None
    width_px: int | None
    bits: int | None
    sentence: str

    @property
    def path(self) -> str:
        """Of the frame."""
        return str(self.body["path"])
