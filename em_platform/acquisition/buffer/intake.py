"""From the bus, from beside the frames, and of the frames, into the journal."""

import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.buffer.tables import (
    FREED,
    IMAGED,
    PRELIMINARY,
    REFUSED,
    SUPERSEDED,
    TileRow,
)
from em_platform.acquisition.frame_paths import acquisition_of, checked_frame
from em_platform.acquisition.recorder.events import (
    COMPLETE,
    RAW,
    VERDICT,
    Message,
    is_preliminary,
    safe_id,
)
from em_platform.errors import DataError, FormatError, is_own_fault
from em_platform.formats import read_header
from em_platform.messaging.limits import sent_ms
from em_platform.messaging.topics import Body, shortened

log = logging.getLogger(__name__)

NOTED = (
    "tile.processed",
    "tile.statistics.min_max_mean",
    "tile.statistics.focus",
    "tile.matches",
    VERDICT,
)
"""Topics of which the newest body is kept for each tile."""

OF_A_MONTAGE = ("roi.current", "montage.status")
"""Topics about a montage that no file beside the frames has."""

_WARNINGS = 1000  # each once; messages with ever new paths end here
_DEVICES = ("camera.status", "scope.status")
TOPICS = (RAW, *NOTED, *_DEVICES, *OF_A_MONTAGE, COMPLETE)


class Intake:
    """Writes messages; the same one twice changes nothing.

    A frame at another path than that of its own montage and tile is refused: what the
    journal names is sent and deleted.
    """

    def __init__(self, journal: Journal, frames: Path) -> None:
        self._journal = journal
        self._frames = frames
        self._warned: set[str] = set()
        self._devices: dict[str, Body] = {}

    def note(self, messages: Sequence[Message]) -> None:
        """Write all of it in one commit.

        A message that cannot be noted by itself is left out with a sentence: it must
        not end the work on all others.

        Raises
        ------
        StorageError
            The journal cannot be written; nothing was.
        """
        try:
            with self._journal.writing() as cursor:
                for each in messages:
                    self._record_message(cursor, each)
        except Exception as error:
            if is_own_fault(error):
                raise
            if len(messages) > 1:
                for each in messages:
                    self.note([each])
                return
            names = (messages[0].body.get(name) for name in ("tile_id", "montage_id"))
            tile, montage = (shortened(str(name or "none")) for name in names)
            log.exception(
                "buffer: a message on %s (tile %s, montage %s) is left out: noting it "
                "failed (%s), it was expected to be noted as all others; report it",
                messages[0].topic,
                tile,
                montage,
                shortened(f"{type(error).__name__}: {error}"),
            )

    def _record_message(self, cursor: sqlite3.Cursor, message: Message) -> None:
        if message.topic in _DEVICES:
            self._devices[message.topic] = message.body
        elif message.body["montage_id"] == "":
            return  # a frame for the operator's screen
        elif message.topic == RAW:
            self._note_frame(cursor, message)
        elif message.topic in NOTED:
            _note_tile(cursor, message)
        elif message.topic == "roi.current":
            _keep(cursor, "rois", message.body["montage_id"], message.body)
        elif message.topic == COMPLETE:
            _note_end(cursor, message)
        elif message.body["state"] == "cancelled":
            _note_cancelled(cursor, message)

    def _note_frame(self, cursor: sqlite3.Cursor, message: Message) -> None:
        tile_id, montage_id = message.body["tile_id"], message.body["montage_id"]
        try:
            checked_frame(self._frames, message.body["path"], montage_id, tile_id)
        except DataError as error:
            self._warn_once(f"buffer: {error}; the message is passed over")
            return
        body = json.dumps(message.body)
        # A repeat changes nothing. Another body is another file, to be read anew,
        # but not when it is sent already.
        cursor.execute(
            "INSERT INTO tiles (tile_id, montage_id, acquisition_id, body, said_at, "
            "state) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "body = excluded.body, sha256 = NULL "
            "WHERE tiles.body != excluded.body AND tiles.state = ? "
            "AND tiles.montage_id = excluded.montage_id",
            (
                tile_id,
                montage_id,
                safe_id(acquisition_of(tile_id)),
                body,
                _sent_at(message),
                IMAGED,
                IMAGED,
            ),
        )
        # not in parts: the first that is written stays
        if len(self._devices) == len(_DEVICES):
            cursor.execute(
                "INSERT OR IGNORE INTO instruments VALUES (?, ?)",
                (montage_id, json.dumps(self._devices)),
            )

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._warned and len(self._warned) < _WARNINGS:
            self._warned.add(sentence)
            log.warning("%s", sentence)


def _note_tile(cursor: sqlite3.Cursor, message: Message) -> None:
    preliminary = message.topic == VERDICT and is_preliminary(message.body)
    # not for a deleted frame: nobody would take the message away again
    cursor.execute(
        "INSERT OR REPLACE INTO notes SELECT :tile, :topic, :body WHERE NOT EXISTS "
        "(SELECT 1 FROM tiles WHERE tile_id = :tile AND state = :freed)",
        {
            "tile": message.body["tile_id"],
            "topic": PRELIMINARY if preliminary else message.topic,
            "body": json.dumps(message.body),
            "freed": FREED,
        },
    )


def _note_end(cursor: sqlite3.Cursor, message: Message) -> None:
    key = safe_id(message.body["acquisition_id"])
    body = {**message.body, "ended_at": _sent_at(message)}
    cursor.execute(
        "INSERT INTO montages (acquisition_id, montage_id, is_cancelled, body, said_at)"
        " VALUES (?, ?, 0, ?, ?) ON CONFLICT DO NOTHING",
        (key, message.body["montage_id"], json.dumps(body), time.time()),
    )
    # a repeated end: its tiles may be sent and deleted by now
    if not cursor.rowcount:
        return
    # the ids of another system's tiles do not name their acquisition
    cursor.executemany(
        "UPDATE tiles SET acquisition_id = ? WHERE tile_id = ?",
        [(key, tile_id) for tile_id in message.body["tiles"]],
    )
    _note_superseded(cursor, key, announced=message.body["tiles"])
    log.info("buffer: %s has ended, %d tiles", key, len(message.body["tiles"]))


def _note_superseded(
    cursor: sqlite3.Cursor, key: str, *, announced: Collection[str]
) -> None:
    """Note the frames in whose place others, imaged later, were announced."""
    known = cursor.execute("SELECT tile_id FROM tiles WHERE acquisition_id = ?", (key,))
    cursor.executemany(
        "UPDATE tiles SET state = ? WHERE tile_id = ? AND state IN (?, ?)",
        [
            (SUPERSEDED, tile_id, IMAGED, REFUSED)
            for (tile_id,) in known.fetchall()
            if tile_id not in announced
        ],
    )


def _note_cancelled(cursor: sqlite3.Cursor, message: Message) -> None:
    """Note the acquisitions of a montage that had begun and have no end.

    One that began later than this was sent is another try at the same montage.
    """
    reason = message.body.get("error_message") or "cancelled by the operator"
    body = json.dumps({"reason": reason, "ended_at": _sent_at(message)})
    cursor.execute(
        "INSERT INTO montages (acquisition_id, montage_id, is_cancelled, said_at, "
        "body) SELECT acquisition_id, montage_id, 1, ?, ? FROM tiles "
        "WHERE montage_id = ? GROUP BY acquisition_id HAVING min(said_at) <= ? "
        "ON CONFLICT DO NOTHING",
        (time.time(), body, message.body["montage_id"], _sent_at(message)),
    )
    if cursor.rowcount > 0:
        log.info("buffer: montage %s: %s", message.body["montage_id"], reason)


def _keep(cursor: sqlite3.Cursor, table: str, montage_id: str, body: Any) -> None:
    cursor.execute(
        f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (montage_id, json.dumps(body))
    )


def _sent_at(message: Message) -> float:
    """When it was sent, in seconds since 1970."""
    at_ms = sent_ms(message.headers)
    return time.time() if at_ms is None else at_ms / 1000


_AT_ONCE = 64  # Bounds the rows in memory; the next tick takes the others
_PIECE = 1 << 20  # bytes: no frame is in memory as a whole


class Reader:
    """Notes what the frames' files hold, soon after they came: they are in memory yet.

    The checksum is the one that aloha gets: a file that changes later is found out.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def tick(self) -> None:
        """Read what nobody has read; what the disk does not give holds up no other."""
        failed: Exception | None = None
        for tile in self._journal.unread_tiles(limit=_AT_ONCE):
            try:
                self.read(tile)
            except Exception as error:
                if not is_own_fault(error):
                    raise
                failed = error
        if failed is not None:
            raise failed

    def read(self, tile: TileRow) -> bool:
        """Read one frame; one that cannot be read is rejected with the sentence."""
        try:
            found = found_in(Path(tile.path))
        except FormatError as error:
            # once: the uploader looks again before each try
            if str(error) != tile.sentence:
                log.warning("buffer: tile %s: %s", tile.tile_id, error)
            self._journal.note_refused(tile.tile_id, str(error))
            return False
        self._journal.note_read(tile.tile_id, found)
        return True


def found_in(path: Path) -> dict[str, int | str]:
    """Checksum, length, time and image size of a frame's file, by column.

    Raises
    ------
    FormatError
        It is not there, or no image of grey levels.
    """
    header = read_header(str(path))
    digest, length = hashlib.sha256(), 0
    try:
        with path.open("rb", buffering=0) as file:
            # before it is read: a write meanwhile then shows as a later time
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            while piece := file.read(_PIECE):
                digest.update(piece)
                length += len(piece)
    except OSError as error:
        if is_own_fault(error):
            raise
        raise FormatError(
            f"{path}: cannot be read ({error.strerror}), expected a frame; check access"
        ) from error
    return {
        "sha256": digest.hexdigest(),
        "bytes": length,
        "mtime_ns": mtime_ns,
        "height_px": header.size.height_px,
        "width_px": header.size.width_px,
        "bits": np.dtype(header.dtype).itemsize * 8,
    }
