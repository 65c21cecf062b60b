"""The durable list of tiles from which all pipeline processes take their work.

    waiting -> taken -> processed -> matching -> done

A tile is taken by one UPDATE within SQLite's write lock, so never by two processes. It
is matched when no neighbour that came before it is still to be processed. Commits are
not forced to the disk (`synchronous=NORMAL`): they outlive a process that is
killed; after a power cut the last ones may be missing, and those tiles are done again.
"""

import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from em_platform.acquisition.pipeline.journaled import (
    Job,
    JournaledTile,
    Shape,
    Step,
    is_gone,
    own_name,
    shape_of,
    shape_text,
)
from em_platform.storage.journal_file import JournalFile

WITHOUT = "tiles without a processed frame are found on the disk and made again"
"""What becomes of it when the journal is moved away."""

MOST_ATTEMPTS = 3
"""So often one step of a tile may be broken off before it counts as failed."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tiles (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    montage TEXT NOT NULL,
    row INTEGER NOT NULL,
    col INTEGER NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    worker TEXT NOT NULL DEFAULT '',
    lease REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    shape TEXT NOT NULL DEFAULT '',
    failure TEXT NOT NULL DEFAULT '',
    changed REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS tiles_by_place ON tiles (montage, row, col);
CREATE INDEX IF NOT EXISTS tiles_by_state ON tiles (state, number);
CREATE TABLE IF NOT EXISTS pruned (montage TEXT PRIMARY KEY);
"""
# All processes receive each tile: the first insert counts. Tiles of a pruned montage
# that are sent again are done already.
_NOTE = """
INSERT INTO tiles (key, montage, row, col, body, changed)
SELECT :key, :montage, :row, :col, :body, :now
WHERE NOT EXISTS (SELECT 1 FROM pruned WHERE montage = :montage)
ON CONFLICT (key) DO NOTHING
"""
# Only earlier neighbours, so that each pair is measured once, at its later tile.
_BEFORE = """
n.montage = t.montage AND n.number < t.number AND (
    (n.row = t.row AND n.col IN (t.col - 1, t.col + 1))
    OR (n.row IN (t.row - 1, t.row + 1) AND n.col = t.col))
"""
# What is put off waits until its lease is over.
# A tile that could not be read is `processed` too: it holds no neighbour up.
_NEXT_TO_MATCH = f"""
SELECT * FROM tiles t WHERE t.state = 'processed' AND t.lease < :now AND NOT EXISTS (
    SELECT 1 FROM tiles n WHERE n.state IN ('waiting', 'taken') AND {_BEFORE})
ORDER BY t.number LIMIT 1
"""
_NEXT_TO_PROCESS = """
SELECT * FROM tiles WHERE state = 'waiting' AND lease < :now ORDER BY number LIMIT 1
"""
_TAKE = """
UPDATE tiles SET state = :state, worker = :worker, lease = :lease,
    attempts = attempts + 1, changed = :now WHERE key = :key
"""
# Attempts begin anew with each step. Who has lost the tile finishes nothing.
_FINISH = """
UPDATE tiles SET state = :state, worker = '', lease = 0, attempts = 0,
    shape = :shape, failure = :failure, changed = :now
WHERE key = :key AND worker = :worker
"""
# The lease is compared once more: its holder may have renewed it meanwhile.
_FREE = """
UPDATE tiles SET worker = '', lease = 0,
    state = CASE state WHEN 'taken' THEN 'waiting' ELSE 'processed' END
WHERE state IN ('taken', 'matching') AND worker = :worker AND lease < :before
"""
# What was only interrupted is no attempt: it is taken off the count again.
_GIVE_BACK = """
UPDATE tiles SET worker = '', lease = :until, attempts = attempts - :tries,
    state = CASE state WHEN 'taken' THEN 'waiting' ELSE 'processed' END
WHERE state IN ('taken', 'matching') AND worker = :worker
"""


class Journal:
    """One process's hold of the list; may be used by several threads of it.

    Raises
    ------
    StorageError
        The file cannot be written; nothing has changed then.
    """

    def __init__(
        self, path: Path, *, lease_s: float = 30.0, worker: str | None = None
    ) -> None:
        self._lease_s = lease_s
        self._worker = worker or own_name()
        self._file = JournalFile(
            path,
            _SCHEMA,
            who="pipeline",
            remedy="free space or check access",
            without=WITHOUT,
            synchronous="NORMAL",  # what a power cut takes is done again, see above
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, tiles: Iterable[JournaledTile]) -> int:
        """Add tiles, in their order, in one commit; how many were new."""
        with self._file.writing() as cursor:
            return sum(self._record_tile(cursor, tile) for tile in tiles)

    def claim_next(self) -> Job | None:
        """The next step to do, which is now this process's; None where none waits.

        What can be matched comes before what is to be processed, so that a tile's
        results follow each other closely.
        """
        with self._file.writing() as cursor:
            # The write lock is held already: nobody takes the same row in between.
            now = {"now": time.time()}
            row = cursor.execute(_NEXT_TO_MATCH, now).fetchone()
            step: Step = "match" if row is not None else "process"
            row = row or cursor.execute(_NEXT_TO_PROCESS, now).fetchone()
            if row is None:
                return None
            state = "matching" if step == "match" else "taken"
            values = {"key": row["key"], "state": state, **self._mine()}
            cursor.execute(_TAKE, values)
            neighbours = self._before(cursor, row) if step == "match" else ()
        # The row of before the update: its attempts are those that were broken off.
        return Job(step=step, tile=_tile_of(row), neighbours=neighbours)

    def processed(
        self, tile: JournaledTile, *, shape: Shape | None, failure: str = ""
    ) -> bool:
        """Note that the first step of a tile is over; whether it was still ours.

        A frame of no montage is done with it.
        """
        state = "processed" if tile.montage else "done"
        return self._finish(tile, state, shape=shape, failure=failure)

    def done(self, tile: JournaledTile) -> bool:
        """Note that all of a tile is published; whether it was still ours."""
        return self._finish(tile, "done", shape=tile.shape, failure=tile.failure)

    def renew(self, tile: JournaledTile) -> bool:
        """Hold a tile longer; False where it has been given to another process."""
        with self._file.writing() as cursor:
            done = cursor.execute(
                "UPDATE tiles SET lease = :lease, changed = :now"
                " WHERE key = :key AND worker = :worker",
                {"key": tile.key, **self._mine()},
            )
            return done.rowcount == 1

    def give_back(self, *, was_tried: bool = False, pause_s: float = 0.0) -> int:
        """Leave what this process has taken to others; how many tiles.

        What `was_tried` and could not be done counts among the tile's attempts. Nobody
        takes it for `pause_s`, so that the others come before it.
        """
        with self._file.writing() as cursor:
            until = time.time() + pause_s if pause_s else 0.0
            tries = 0 if was_tried else 1
            values = {"worker": self._worker, "tries": tries, "until": until}
            return cursor.execute(_GIVE_BACK, values).rowcount

    def free(self) -> int:
        """Leave to others what ended or hanging processes hold; how many tiles."""
        held = (
            "SELECT worker, MIN(lease) AS lease FROM tiles"
            " WHERE state IN ('taken', 'matching') GROUP BY worker"
        )
        now, freed = time.time(), 0
        holders = self._file.ask(held)
        for holder in holders:
            ended = holder["worker"] != self._worker and is_gone(holder["worker"])
            if ended or holder["lease"] < now:
                # A process that has ended renews nothing: all its leases are over.
                before = float("inf") if ended else now
                values = {"worker": holder["worker"], "before": before}
                with self._file.writing() as cursor:
                    freed += cursor.execute(_FREE, values).rowcount
        return freed

    def existing(self, montage: str) -> set[str]:
        """Keys of the tiles of one montage that are tile."""
        rows = self._file.ask("SELECT key FROM tiles WHERE montage = ?", (montage,))
        return {str(row["key"]) for row in rows}

    def is_pruned(self, montage: str) -> bool:
        """Whether the montage is over and forgotten."""
        return bool(
            self._file.ask("SELECT 1 FROM pruned WHERE montage = ?", (montage,))
        )

    def idle(self, *, for_s: float) -> list[tuple[str, str]]:
        """Montages all of whose tiles are done, and have been for `for_s`.

        Each with its `montage_id`.
        """
        query = (
            "SELECT montage, MIN(body ->> 'montage_id') AS montage_id FROM tiles"
            " WHERE montage != '' GROUP BY montage"
            " HAVING SUM(state != 'done') = 0 AND MAX(changed) < ?"
        )
        rows = self._file.ask(query, (time.time() - for_s,))
        return [(str(row["montage"]), str(row["montage_id"])) for row in rows]

    def prune(self, montage: str) -> None:
        """Forget the tiles of a montage, but not that they were done."""
        with self._file.writing() as cursor:
            # In one commit: tiles that are gone and not noted would be done again.
            cursor.execute("INSERT OR IGNORE INTO pruned VALUES (?)", (montage,))
            cursor.execute("DELETE FROM tiles WHERE montage = ?", (montage,))

    def prune_previews(self, *, older_than_s: float) -> None:
        """Forget frames of no montage that were done so long ago."""
        with self._file.writing() as cursor:
            cursor.execute(
                "DELETE FROM tiles WHERE montage = '' AND state = 'done'"
                " AND changed < ?",
                (time.time() - older_than_s,),
            )

    def counts(self) -> dict[str, int]:
        """How many tiles are in each state."""
        rows = self._file.ask(
            "SELECT state, COUNT(*) AS count FROM tiles GROUP BY state"
        )
        return {str(row["state"]): int(row["count"]) for row in rows}

    def failures(self) -> dict[str, str]:
        """Key -> sentence of the tiles that could not be processed."""
        rows = self._file.ask(
            "SELECT key, failure FROM tiles WHERE failure != '' ORDER BY number"
        )
        return {str(row["key"]): str(row["failure"]) for row in rows}

    def _record_tile(self, cursor: sqlite3.Cursor, tile: JournaledTile) -> int:
        row, column = tile.place
        values = {
            "key": tile.key,
            "montage": tile.montage,
            "row": row,
            "col": column,
            "body": json.dumps(tile.body),
            "now": time.time(),
        }
        return cursor.execute(_NOTE, values).rowcount

    def _finish(
        self, tile: JournaledTile, state: str, *, shape: Shape | None, failure: str
    ) -> bool:
        values = {
            "key": tile.key,
            "state": state,
            "shape": shape_text(shape),
            "failure": failure,
            **self._mine(),
        }
        with self._file.writing() as cursor:
            return cursor.execute(_FINISH, values).rowcount == 1

    def _before(
        self, cursor: sqlite3.Cursor, row: sqlite3.Row
    ) -> tuple[JournaledTile, ...]:
        """Neighbours journaled before a tile; of one imaged twice the later frame."""
        query = (
            f"SELECT n.* FROM tiles n JOIN tiles t ON {_BEFORE}"
            " WHERE t.number = ? ORDER BY n.number"
        )
        found = map(_tile_of, cursor.execute(query, (row["number"],)))
        latest = {tile.place: tile for tile in found}
        return tuple(latest[place] for place in sorted(latest))

    def _mine(self) -> dict[str, str | float]:
        # Not monotonic time: processes and computers compare each other's leases.
        now = time.time()
        return {"worker": self._worker, "lease": now + self._lease_s, "now": now}


def _tile_of(row: sqlite3.Row) -> JournaledTile:
    return JournaledTile(
        key=row["key"],
        montage=row["montage"],
        body=json.loads(row["body"]),
        number=row["number"],
        attempts=row["attempts"],
        shape=shape_of(row["shape"]),
        failure=row["failure"],
    )
