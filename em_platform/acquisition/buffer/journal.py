"""What the buffer has received and done, durably, in one SQLite file."""

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from em_platform.acquisition.buffer.tables import (
    FREED,
    IMAGED,
    REFUSED,
    SENT,
    SUPERSEDED,
    TABLES,
    MontageRow,
    TileRow,
)
from em_platform.acquisition.frame_paths import acquisition_of
from em_platform.acquisition.recorder.events import safe_id
from em_platform.messaging.topics import Body
from em_platform.storage.journal_file import JournalFile

WITHOUT = (
    "frames on the disk are noted again, and aloha tells which it has; what was not "
    "uploaded then lacks its region"
)
"""What becomes of it when the journal is moved away."""

# Named one by one: a journal on disk may have the columns in another order.
_TILE = (
    "tile_id, montage_id, acquisition_id, body, said_at AS sent_at, state, sha256, "
    "bytes, mtime_ns, height_px, width_px, bits, sentence"
)
_MONTAGE = (
    "acquisition_id, montage_id, is_cancelled, body, said_at AS received_at, "
    "answered_at, sentence"
)


class Journal:
    """Safe to use from many threads; a change is on disk when its block has ended."""

    def __init__(self, path: Path) -> None:
        remedy = "free space or check access"
        self._file = JournalFile(
            path, TABLES, who="buffer", remedy=remedy, without=WITHOUT
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def writing(self) -> AbstractContextManager[sqlite3.Cursor]:
        """One commit: all that is written in the block, or nothing of it."""
        return self._file.writing()

    def montage(self, acquisition_id: str) -> MontageRow | None:
        """One acquisition that has ended."""
        query = f"SELECT {_MONTAGE} FROM montages WHERE acquisition_id = ?"
        rows = self._ask(query, acquisition_id)
        return _montage(rows[0]) if rows else None

    def open_ids(self) -> list[str]:
        """Acquisitions that have ended and wait for aloha, oldest first."""
        query = "SELECT acquisition_id FROM montages WHERE answered_at IS NULL"
        return [str(row[0]) for row in self._ask(query + " ORDER BY said_at, rowid")]

    def answered_montages(self) -> list[MontageRow]:
        """Uploaded acquisitions whose frames are on the disk, oldest first."""
        query = (
            f"SELECT {_MONTAGE} FROM montages WHERE answered_at IS NOT NULL "
            "AND NOT is_cancelled AND freed_at IS NULL ORDER BY answered_at"
        )
        return [_montage(row) for row in self._ask(query)]

    def freed_montages(self) -> list[MontageRow]:
        """Those whose frames are deleted, and the bodies beside them are not."""
        query = (
            f"SELECT {_MONTAGE} FROM montages WHERE freed_at IS NOT NULL "
            "AND bodies_freed_at IS NULL ORDER BY freed_at"
        )
        return [_montage(row) for row in self._ask(query)]

    def cancelled_tiles(self, *, before: float) -> list[TileRow]:
        """Frames on the disk whose acquisition was cancelled before a time."""
        # t.: both tables have a body, a said_at and a sentence
        names = ", ".join(f"t.{name}" for name in _TILE.split(", "))
        query = (
            f"SELECT {names} FROM tiles t JOIN montages m USING (acquisition_id) "
            "WHERE m.is_cancelled AND m.said_at <= ? AND t.state != ?"
        )
        return [_tile(row) for row in self._ask(query, before, FREED)]

    def superseded_tiles(self, *, before: float) -> list[TileRow]:
        """Frames that were imaged again in an acquisition that ended before a time."""
        names = ", ".join(f"t.{name}" for name in _TILE.split(", "))
        query = (
            f"SELECT {names} FROM tiles t JOIN montages m USING (acquisition_id) "
            "WHERE m.said_at <= ? AND t.state = ?"
        )
        return [_tile(row) for row in self._ask(query, before, SUPERSEDED)]

    def tiles(self, acquisition_id: str) -> list[TileRow]:
        """All known frames of one acquisition."""
        query = f"SELECT {_TILE} FROM tiles WHERE acquisition_id = ? ORDER BY rowid"
        return [_tile(row) for row in self._ask(query, acquisition_id)]

    def unread_tiles(self, *, limit: int) -> list[TileRow]:
        """Frames that nobody has read yet, newest last."""
        query = (
            f"SELECT {_TILE} FROM tiles WHERE state = ? AND sha256 IS NULL "
            "ORDER BY rowid LIMIT ?"
        )
        return [_tile(row) for row in self._ask(query, IMAGED, limit)]

    def tile_ids(self, montage_id: str) -> set[str]:
        """All known frames of one montage."""
        rows = self._ask("SELECT tile_id FROM tiles WHERE montage_id = ?", montage_id)
        return {row[0] for row in rows}

    def notes(self, acquisition_id: str) -> dict[str, dict[str, Body]]:
        """Tile -> topic -> body of the messages about the acquisition's tiles."""
        query = (
            "SELECT n.tile_id, n.topic, n.body FROM notes n JOIN tiles t "
            "USING (tile_id) WHERE t.acquisition_id = ?"
        )
        found: dict[str, dict[str, Body]] = {}
        for tile_id, topic, body in self._ask(query, acquisition_id):
            found.setdefault(tile_id, {})[topic] = json.loads(body)
        return found

    def noted(self, acquisition_id: str, topic: str) -> int:
        """Of how many of the acquisition's tiles a topic has come, retries once."""
        query = (
            "SELECT count(*) FROM notes n JOIN tiles t USING (tile_id) "
            "WHERE t.acquisition_id = ? AND n.topic = ? AND t.state != ?"
        )
        return int(self._ask(query, acquisition_id, topic, SUPERSEDED)[0][0])

    def has_note(self, topic: str, tile_id: str) -> bool:
        """Whether a message about a tile came, or is not needed: it is uploaded."""
        query = (
            "SELECT 1 FROM notes WHERE tile_id = ? AND topic = ? UNION ALL SELECT 1 "
            "FROM montages WHERE acquisition_id = ? AND answered_at IS NOT NULL"
        )
        key = safe_id(acquisition_of(tile_id))
        return bool(self._ask(query + " LIMIT 1", tile_id, topic, key))

    def roi(self, montage_id: str) -> Body:
        """The body of the montage's `roi.current`; empty where none came."""
        return self._body("rois", montage_id)

    def instrument(self, montage_id: str) -> Body:
        """Camera and scope as they were at the montage's first tile."""
        return self._body("instruments", montage_id)

    def queue_length(self) -> int:
        """How many tiles are not uploaded and not cancelled."""
        query = (
            "SELECT count(*) FROM tiles t LEFT JOIN montages m USING (acquisition_id) "
            "WHERE t.state IN (?, ?) AND NOT coalesce(m.is_cancelled, 0)"
        )
        return int(self._ask(query, IMAGED, REFUSED)[0][0])

    def note_read(self, tile_id: str, found: Mapping[str, int | str]) -> None:
        """Note what was found in the file of a frame, by column."""
        names = ", ".join(f"{name} = ?" for name in found)
        # what was sent or deleted meanwhile stays so
        with self.writing() as cursor:
            cursor.execute(
                f"UPDATE tiles SET {names}, state = ?, sentence = '' "
                "WHERE tile_id = ? AND state IN (?, ?)",
                (*found.values(), IMAGED, tile_id, IMAGED, REFUSED),
            )

    def note_sent(self, tile_ids: Iterable[str]) -> None:
        """Note frames that aloha has verified."""
        with self.writing() as cursor:
            cursor.executemany(
                "UPDATE tiles SET state = ?, sentence = '' WHERE tile_id = ? "
                "AND state IN (?, ?)",
                [(SENT, tile_id, IMAGED, REFUSED) for tile_id in tile_ids],
            )

    def note_refused(self, tile_id: str, sentence: str) -> None:
        """Reject one frame; it stays on the disk."""
        with self.writing() as cursor:
            cursor.execute(
                "UPDATE tiles SET state = ?, sentence = ? WHERE tile_id = ? "
                "AND state IN (?, ?)",
                (REFUSED, sentence, tile_id, IMAGED, REFUSED),
            )

    def note_answered(self, acquisition_id: str) -> None:
        """Note that aloha has verified an acquisition, or knows that it is aborted."""
        with self.writing() as cursor:
            cursor.execute(
                "UPDATE montages SET answered_at = ?, sentence = '' "
                "WHERE acquisition_id = ?",
                (time.time(), acquisition_id),
            )

    def note_sentence(self, acquisition_id: str, sentence: str) -> None:
        """Note what blocks an acquisition."""
        with self.writing() as cursor:
            cursor.execute(
                "UPDATE montages SET sentence = ? WHERE acquisition_id = ?",
                (sentence, acquisition_id),
            )

    def note_freed(self, tile_ids: Iterable[str]) -> None:
        """Note frames that are deleted; the messages about them are not needed more."""
        names = [(tile_id,) for tile_id in tile_ids]
        with self.writing() as cursor:
            cursor.executemany(
                f"UPDATE tiles SET state = '{FREED}' WHERE tile_id = ?", names
            )
            cursor.executemany("DELETE FROM notes WHERE tile_id = ?", names)

    def forget(self, tile_ids: Iterable[str]) -> None:
        """Forget frames that are deleted and were never sent."""
        names = [(tile_id,) for tile_id in tile_ids]
        with self.writing() as cursor:
            for table in ("tiles", "notes"):
                cursor.executemany(f"DELETE FROM {table} WHERE tile_id = ?", names)

    def note_montage_freed(self, acquisition_id: str) -> None:
        """Note that all verified frames of an acquisition are deleted."""
        self._note_time("freed_at", acquisition_id)

    def note_bodies_freed(self, acquisition_id: str) -> None:
        """Note that nothing of an acquisition's freed tiles is on the disk."""
        self._note_time("bodies_freed_at", acquisition_id)

    def prune(self, *, before: float) -> None:
        """Forget the tiles of acquisitions that left the disk before a time."""
        # the montage stays: its complete.json does, and would be noted anew
        with self.writing() as cursor:
            cursor.execute(
                "DELETE FROM tiles WHERE acquisition_id IN "
                "(SELECT acquisition_id FROM montages WHERE bodies_freed_at < ?)",
                (before,),
            )

    def _note_time(self, column: str, acquisition_id: str) -> None:
        with self.writing() as cursor:
            cursor.execute(
                f"UPDATE montages SET {column} = ? WHERE acquisition_id = ?",
                (time.time(), acquisition_id),
            )

    def _body(self, table: str, montage_id: str) -> Body:
        rows = self._ask(f"SELECT body FROM {table} WHERE montage_id = ?", montage_id)
        return dict(json.loads(rows[0][0])) if rows else {}

    def _ask(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self._file.ask(query, values)


def _montage(row: sqlite3.Row) -> MontageRow:
    fields = dict(row)
    fields["is_cancelled"] = bool(fields["is_cancelled"])
    fields["body"] = json.loads(fields["body"])
    return MontageRow(**fields)


def _tile(row: sqlite3.Row) -> TileRow:
    fields = dict(row)
    fields["body"] = json.loads(fields["body"])
    return TileRow(**fields)
