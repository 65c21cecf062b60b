"""What was announced to aloha and what it has taken, durably, in one SQLite file."""

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from em_platform.model import (
    AcquisitionUpload,
    MeasuredTile,
    StoredTile,
    UploadedTile,
)
from em_platform.storage.journal_file import JournalFile

# WITHOUT ROWID: tiles are only looked for by their key.
_TABLES = """
CREATE TABLE IF NOT EXISTS acquisitions (
    acquisition_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    pixel_nm REAL,
    upload TEXT NOT NULL,
    changed_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS tiles (
    acquisition_id TEXT NOT NULL,
    tile_id TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    is_measured INTEGER NOT NULL,
    uri TEXT,
    measured TEXT,
    PRIMARY KEY (acquisition_id, tile_id)
) WITHOUT ROWID;
"""


WITHOUT = (
    "what is complete is read from the store, all else is announced and sent again"
)
"""What becomes of it when the journal is moved away."""


class State(StrEnum):
    """How far an acquisition is."""

    OPEN = "open"
    COMPLETE = "complete"
    ABORTING = "aborting"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRow:
    """An announced tile; `uri` is None until its pyramid is whole in the store.

    `is_measured` says whether the pipeline's statistics came with the announcement.
    """

    tile_id: str
    sha256: str
    bytes: int
    is_measured: bool
    uri: str | None
    measured: MeasuredTile | None

    @property
    def stored(self) -> StoredTile | None:
        """The answer to whoever sends it again."""
        if self.uri is None:
            return None
        return StoredTile(sha256=self.sha256, bytes=self.bytes, uri=self.uri)


class Journal:
    """Safe to use from many threads; every change is on disk when its call returns."""

    def __init__(self, path: Path) -> None:
        remedy = "free space or check access, then send again"
        # Synced at each commit, the default: what was answered outlives a power cut.
        self._file = JournalFile(
            path, _TABLES, who="aloha", remedy=remedy, without=WITHOUT
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def state(self, acquisition_id: str) -> State | None:
        """How far an acquisition is; None where it was never announced."""
        rows = self._ask(
            "SELECT state FROM acquisitions WHERE acquisition_id = ?", acquisition_id
        )
        return State(rows[0][0]) if rows else None

    def upload(self, acquisition_id: str) -> AcquisitionUpload:
        """What was announced last."""
        ((text,),) = self._ask(
            "SELECT upload FROM acquisitions WHERE acquisition_id = ?", acquisition_id
        )
        return AcquisitionUpload.model_validate_json(text)

    def tile(self, acquisition_id: str, tile_id: str) -> TileRow | None:
        """One announced tile."""
        return next(iter(self._tiles(acquisition_id, tile_id)), None)

    def tiles(self, acquisition_id: str) -> list[TileRow]:
        """All announced tiles."""
        return self._tiles(acquisition_id)

    def announce(self, upload: AcquisitionUpload) -> None:
        """Note an acquisition, or put a newer announcement in the place of the last.

        What is stored stays stored.
        """
        key = upload.acquisition_id
        with self._file.writing() as cursor:
            cursor.execute(
                "INSERT INTO acquisitions VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET pixel_nm = excluded.pixel_nm, "
                "upload = excluded.upload, changed_at = excluded.changed_at",
                (
                    key,
                    State.OPEN,
                    upload.pixel_nm,
                    upload.model_dump_json(),
                    time.time(),
                ),
            )
            # A tile that is announced no longer must not be waited for.
            cursor.execute(
                "DELETE FROM tiles WHERE acquisition_id = ? AND uri IS NULL", (key,)
            )
            cursor.executemany(
                "INSERT INTO tiles VALUES (?, ?, ?, ?, ?, NULL, NULL) "
                "ON CONFLICT DO UPDATE SET is_measured = excluded.is_measured",
                [_row(key, tile) for tile in upload.tiles],
            )

    def pixel_nm(self, acquisition_id: str) -> float | None:
        """The edge of a pixel as announced."""
        # A column of its own: each tile asks, and the announcement is long to read.
        rows = self._ask(
            "SELECT pixel_nm FROM acquisitions WHERE acquisition_id = ?", acquisition_id
        )
        return None if not rows or rows[0][0] is None else float(rows[0][0])

    def note_stored(
        self,
        acquisition_id: str,
        tile_id: str,
        sha256: str,
        *,
        uri: str,
        measured: MeasuredTile | None,
    ) -> bool:
        """Note that a tile is whole in the store; False where it is not wanted now."""
        text = measured.model_dump_json() if measured else None
        with self._file.writing() as cursor:
            cursor.execute(
                # One statement: after an abort or a newer announcement it finds no row.
                "UPDATE tiles SET uri = ?, measured = ? WHERE acquisition_id = ? "
                "AND tile_id = ? AND sha256 = ? AND EXISTS (SELECT 1 FROM acquisitions "
                "a WHERE a.acquisition_id = tiles.acquisition_id AND a.state = ?)",
                (uri, text, acquisition_id, tile_id, sha256, State.OPEN),
            )
            return cursor.rowcount == 1

    def forget_stored(self, acquisition_id: str, tile_ids: Iterable[str]) -> None:
        """Note that tiles are not in the store after all."""
        with self._file.writing() as cursor:
            cursor.executemany(
                "UPDATE tiles SET uri = NULL WHERE acquisition_id = ? AND tile_id = ?",
                [(acquisition_id, tile_id) for tile_id in tile_ids],
            )

    def set_state(self, acquisition_id: str, state: State) -> None:
        """Note how far it is; what is aborted has no tiles any more."""
        with self._file.writing() as cursor:
            cursor.execute(
                "UPDATE acquisitions SET state = ?, changed_at = ? "
                "WHERE acquisition_id = ?",
                (state, time.time(), acquisition_id),
            )
            if state is State.ABORTED:
                cursor.execute(
                    "DELETE FROM tiles WHERE acquisition_id = ?", (acquisition_id,)
                )

    def note_complete(self, upload: AcquisitionUpload) -> None:
        """Note an acquisition that is verified, with the places of its tiles."""
        self.announce(upload)
        with self._file.writing() as cursor:
            cursor.executemany(
                "UPDATE tiles SET uri = ? WHERE acquisition_id = ? AND tile_id = ?",
                [(t.uri, upload.acquisition_id, t.tile_id) for t in upload.tiles],
            )
            cursor.execute(
                "UPDATE acquisitions SET state = ? WHERE acquisition_id = ?",
                (State.COMPLETE, upload.acquisition_id),
            )

    def _tiles(self, acquisition_id: str, tile_id: str | None = None) -> list[TileRow]:
        query = (
            "SELECT tile_id, sha256, bytes, is_measured, uri, measured "
            "FROM tiles WHERE acquisition_id = ?"
        )
        if tile_id is None:
            rows = self._ask(query, acquisition_id)
        else:
            rows = self._ask(query + " AND tile_id = ?", acquisition_id, tile_id)
        return [
            TileRow(
                tile_id=name,
                sha256=sha256,
                bytes=size,
                is_measured=bool(is_measured),
                uri=uri,
                measured=MeasuredTile.model_validate_json(text) if text else None,
            )
            for name, sha256, size, is_measured, uri, text in rows
        ]

    def _ask(self, query: str, *values: str) -> list[sqlite3.Row]:
        return self._file.ask(query, values)


def _row(acquisition_id: str, tile: UploadedTile) -> tuple[str | int, ...]:
    is_measured = int(tile.statistics is not None)
    return acquisition_id, tile.tile_id, tile.sha256, tile.bytes, is_measured
