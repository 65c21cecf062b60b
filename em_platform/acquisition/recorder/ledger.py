"""The durable log of the microscope's messages, and the montages that it holds."""

from pathlib import Path

from sqlalchemy import Connection, func, select
from TEM_comms.qc import Tile

from em_platform.acquisition.frame_paths import owner_of
from em_platform.acquisition.recorder.event_table import (
    EventTable,
    begin_of,
    events,
)
from em_platform.acquisition.recorder.events import (
    COMPLETE,
    PROGRESS,
    RAW,
    REGION,
    SCOPE,
    VERDICT,
    Event,
    event_of,
    is_preliminary,
    safe_id,
)
from em_platform.acquisition.recorder.montage import recorded_montage
from em_platform.acquisition.recorder.reconcile import scan_folder
from em_platform.errors import RecordError
from em_platform.messaging.topics import Body, fitting
from em_platform.model import Montage
from em_platform.storage import Store

_FEW_STATUSES = 50  # a montage in trouble may have some without the number of its tiles


class Ledger(EventTable):
    """The log of the microscope: who reads it finds all montages that were imaged.

    `microscope` and `magnification` stand in for what no event names. A frame is taken
    only from where the camera saves it, in the folder `frames`; None takes any path.
    """

    def montages(self, after: int = 0, *, limit: int = 1000) -> list[tuple[int, str]]:
        """`(seq, acquisition_id)` of the montages completed behind number `after`.

        Each montage once: of completions published anew the first one counts.
        """
        # A completion that is published again must not move the montage behind a
        # cursor.
        first = func.min(events.c.seq)
        query = (
            select(first, events.c.acquisition_id)
            .where(events.c.topic == COMPLETE)
            .group_by(events.c.acquisition_id)
            .order_by(first)
            .limit(limit)
        )
        with self._reading() as connection:
            query = query.having(first > begin_of(connection, after))
            return [(int(seq), str(name)) for seq, name in connection.execute(query)]

    def last_before(self, moment_s: float) -> int:
        """The number of the last event before a time, in s since 1970; else 0."""
        query = select(func.max(events.c.seq)).where(
            events.c.recorded_at < moment_s * 1000
        )
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def montage(self, acquisition_id: str, *, store: Store | None = None) -> Montage:
        """The montage as it was imaged; what is wrong with single tiles is in it.

        Frames that have left the microscope's disk are looked for in `store`.

        Raises
        ------
        RecordError
            Its completion is not recorded.
        DataError
            Not one of its tiles can be used.
        """
        with self._reading() as connection:
            complete = self._newest(connection, acquisition_id)
            raw = select(events).where(
                events.c.topic == RAW,
                events.c.montage_id == complete.body["montage_id"],
            )
            rows = connection.execute(raw.order_by(events.c.seq))
            frames = [event_of(row) for row in rows]
            magnification = self._magnification_before(connection, complete.seq)
            planned_tiles = self._planned_tiles(connection, complete)
            region = self._region(connection, complete)
        montage = recorded_montage(
            complete,
            frames,
            microscope=self._microscope,
            magnification=magnification or self._magnification,
            planned_tiles=planned_tiles,
            store=store,
            folder=self._frames,
        )
        imaged = {name: region.get(name) for name in ("specimen_id", "section_id")}
        return montage.model_copy(update=imaged)

    def lens_shown(self, acquisition_id: str) -> tuple[str, int] | None:
        """Microscope and magnification whose lens the montage was imaged to show.

        None for a montage that shows a specimen.
        """
        with self._reading() as connection:
            complete = self._newest(connection, acquisition_id)
            frames = select(events).where(
                events.c.topic == RAW,
                events.c.montage_id == complete.body["montage_id"],
                events.c.tile_id.in_(list(complete.body["tiles"])[:1]),
            )
            frame = connection.execute(frames.limit(1)).first()
            magnification = self._magnification_before(connection, complete.seq)
        if frame is None or not event_of(frame).body.get("lens_correction"):
            return None
        magnification = magnification or self._magnification
        return None if magnification is None else (self._microscope, magnification)

    def tile_ids(self, montage_id: str) -> set[str]:
        """The tiles of one montage whose frames are recorded."""
        query = select(events.c.tile_id).where(
            events.c.topic == RAW, events.c.montage_id == montage_id
        )
        with self._reading() as connection:
            return {str(name) for (name,) in connection.execute(query)}

    def is_complete(self, acquisition_id: str) -> bool:
        """Whether the completion of this montage is recorded."""
        query = select(events.c.seq).where(
            events.c.topic == COMPLETE,
            events.c.acquisition_id == safe_id(acquisition_id),
        )
        with self._reading() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def verdicts(self, montage_id: str, acquisition_id: str) -> dict[str, Tile]:
        """Tile -> the first `qc.tile` that stands, of the tiles of one acquisition.

        Else a preliminary one.
        """
        query = select(events).where(
            events.c.topic == VERDICT, events.c.montage_id == montage_id
        )
        found: dict[str, Tile] = {}
        stands: set[str] = set()
        with self._reading() as connection:
            for row in connection.execute(query.order_by(events.c.seq)):
                tile_id = str(row.tile_id)
                if owner_of(tile_id, montage_id) != acquisition_id or tile_id in stands:
                    continue  # a second one of a service that did not know the first
                body = event_of(row).body
                found[tile_id] = fitting(VERDICT, body)
                if not is_preliminary(body):
                    stands.add(tile_id)
        return found

    def montage_ids(self) -> set[str]:
        """The ids of all montages that were imaged whole."""
        query = select(events.c.montage_id).where(events.c.topic == COMPLETE).distinct()
        with self._reading() as connection:
            return {str(name) for (name,) in connection.execute(query)}

    def reconcile_montage(self, folder: Path) -> int:
        """Record what lies beside a montage's frames and is not recorded; how much.

        The tiles come first, then the completion: who sees it finds all tiles.
        """
        found = scan_folder(
            folder, recorded=self.tile_ids(folder.name), is_complete=self.is_complete
        )
        return sum(seq is not None for seq in self.append_all(found)) if found else 0

    def _newest(self, connection: Connection, acquisition_id: str) -> Event:
        query = select(events).where(
            events.c.topic == COMPLETE, events.c.acquisition_id == acquisition_id
        )
        row = connection.execute(query.order_by(events.c.seq.desc()).limit(1)).first()
        if row is None:
            raise RecordError(
                f"recorder: no montage {acquisition_id} is recorded as complete; see "
                "that the recorder runs and the acquisition has ended",
                acquisition_id=acquisition_id,
            )
        return event_of(row)

    def _planned_tiles(self, connection: Connection, complete: Event) -> int:
        """How many tiles the raster has by the newest status before the completion.

        A recorder that came late may have only those behind it. 0 where none has it.
        """
        sent = select(events).where(
            events.c.topic == PROGRESS,
            events.c.montage_id == complete.body["montage_id"],
        )
        before = sent.where(events.c.seq < complete.seq).order_by(events.c.seq.desc())
        behind = sent.where(events.c.seq > complete.seq).order_by(events.c.seq)
        for query in (before, behind):
            for row in connection.execute(query.limit(_FEW_STATUSES)):
                status = event_of(row).body
                # A tilt series images one montage many times, once an angle.
                same = status.get("tilt_index") == complete.body.get("tilt_index")
                if same and status.get("total_tiles"):
                    return int(status["total_tiles"])
        return 0

    def _region(self, connection: Connection, complete: Event) -> Body:
        """The region that was imaged, as `roi.current` has it; else nothing."""
        query = select(events).where(
            events.c.topic == REGION,
            events.c.montage_id == complete.body["montage_id"],
        )
        row = connection.execute(query.order_by(events.c.seq.desc()).limit(1)).first()
        return {} if row is None else event_of(row).body

    def _magnification_before(self, connection: Connection, seq: int) -> int | None:
        # The magnification that was in force, not the present one.
        query = select(events).where(events.c.topic == SCOPE, events.c.seq < seq)
        row = connection.execute(query.order_by(events.c.seq.desc()).limit(1)).first()
        return None if row is None else int(event_of(row).body["mag"])
