"""What aloha does: take announcements and tiles, verify, register. No HTTP here."""

import logging
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from em_platform.aloha.journal import Journal, State, TileRow
from em_platform.aloha.pyramids import Frame, is_stored, store_frame
from em_platform.config import AlohaSettings
from em_platform.errors import (
    AcquisitionStopped,
    ChecksumError,
    DataError,
    StorageError,
)
from em_platform.model import (
    AcquisitionUpload,
    MeasuredTile,
    StoredTile,
    UploadedTile,
)
from em_platform.storage import Store, layout

if TYPE_CHECKING:
    from em_platform.temdb.register import Register

log = logging.getLogger(__name__)

BY = "aloha"
"""As whom it writes to TEM DB."""

_LOOKERS = 16  # threads: a look waits for a bucket's answer, not for a core


class Acquisitions:
    """All acquisitions that were announced, and the frames taken of each.

    Every call may be made again, after a kill too: it goes on where it was. Calls of
    one acquisition's `complete` and `abort` must not overlap.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        register: "Register",
        settings: AlohaSettings,
    ) -> None:
        self.journal = Journal(folder / "journal.sqlite")
        self._store = store
        self._register = register
        self._settings = settings
        self.scratch = folder / "scratch"
        shutil.rmtree(self.scratch, ignore_errors=True)  # of a killed process
        self.scratch.mkdir(parents=True)

    def announce(self, upload: AcquisitionUpload) -> State:
        """Note what will come; its state.

        A later announcement takes the place of the last, but for what is stored.

        Raises
        ------
        AcquisitionStopped
            The acquisition was aborted.
        ChecksumError
            Other frames are stored under its ids.
        """
        key = upload.acquisition_id
        state = self.journal.state(key) or self._state_in_store(key)
        if state in (State.ABORTING, State.ABORTED):
            raise _stopped(key)
        # Before anything is noted: a refusal leaves the journal as it was.
        self._refuse_other_frames(upload)
        if state is not State.COMPLETE:  # what is registered stays as it is
            self.journal.announce(upload)
            log.info("aloha: %s is announced, %d tiles", key, len(upload.tiles))
        return state or State.OPEN

    def wanted(self, acquisition_id: str, tile_id: str) -> TileRow | None:
        """The announced tile, ready to be taken; None where none is announced.

        Raises
        ------
        AcquisitionStopped
            The acquisition was aborted.
        StorageError
            Too little is left on the disk.
        """
        if self.journal.state(acquisition_id) in (State.ABORTING, State.ABORTED):
            raise _stopped(acquisition_id)
        row = self.journal.tile(acquisition_id, tile_id)
        # What is stored already needs no room.
        if row is not None and row.uri is None:
            self._refuse_without_room()
        return row

    def take(self, acquisition_id: str, wanted: TileRow, file: Path) -> StoredTile:
        """Put the pyramid of a verified frame's `file` into the store, once.

        Raises
        ------
        FormatError
            It is no image of grey levels.
        TooLarge
            Its pixels are more than the settings allow.
        StorageError
            The store did not take it.
        """
        row = self.journal.tile(acquisition_id, wanted.tile_id)
        if row is not None and row.stored and row.sha256 == wanted.sha256:
            return row.stored  # another sender was faster
        name = layout.uploaded_tile(acquisition_id, wanted.tile_id)
        frame = Frame(
            name=name,
            tile_id=wanted.tile_id,
            sha256=wanted.sha256,
            pixel_nm=self.journal.pixel_nm(acquisition_id),
        )
        # What was measured is in the journal only: one that was lost is made good here.
        measure = not wanted.is_measured
        measured: MeasuredTile | None = None
        if measure or not is_stored(frame, self._store):
            measured = store_frame(
                file,
                frame,
                self._store,
                settings=self._settings,
                scratch=self.scratch,
                measure=measure,
            )
        uri = self._store.url(name)
        if not self.journal.note_stored(
            acquisition_id, wanted.tile_id, wanted.sha256, uri=uri, measured=measured
        ):
            self._store.remove(name)  # aborted meanwhile
            raise _stopped(acquisition_id)
        return StoredTile(sha256=wanted.sha256, bytes=wanted.bytes, uri=uri)

    def complete(self, acquisition_id: str) -> int:
        """Verify that all tiles are there, register them; how many.

        Raises
        ------
        DataError
            Tiles are missing.
        SourceUnavailable
            The TEM database does not answer now.
        """
        state = self.journal.state(acquisition_id)
        if state in (State.ABORTING, State.ABORTED):
            raise _stopped(acquisition_id)
        rows = {row.tile_id: row for row in self.journal.tiles(acquisition_id)}
        # Asked again: the first answer may have been lost on its way.
        if state is State.COMPLETE:
            return len(rows)
        self._refuse_missing(acquisition_id, rows.values())
        upload = self.journal.upload(acquisition_id)
        tiles = tuple(_as_stored(t, rows[t.tile_id]) for t in upload.tiles)
        upload = upload.model_copy(update={"tiles": tiles})
        # In this order: where upload.json stands the TEM database has everything.
        # A kill in between is made good by the next call.
        self._register_complete(upload)
        self._store.write(layout.upload(acquisition_id), upload, AcquisitionUpload)
        self.journal.set_state(acquisition_id, State.COMPLETE)
        log.info("aloha: %s is complete, %d tiles", acquisition_id, len(tiles))
        return len(tiles)

    def abort(self, acquisition_id: str, reason: str) -> None:
        """Delete what was taken, and register the acquisition as aborted.

        Raises
        ------
        DataError
            It is complete already.
        SourceUnavailable
            The TEM database does not answer now.
        """
        state = self.journal.state(acquisition_id)
        if state is State.COMPLETE:
            raise DataError(
                f"aloha: acquisition {acquisition_id} is complete and verified, an "
                "open one was expected; delete it by hand if it is not wanted"
            )
        if state is State.ABORTED:
            return
        # First: from now on no tile is noted, and a killed abort can go on.
        self.journal.set_state(acquisition_id, State.ABORTING)
        self._store.remove(layout.uploaded_acquisition(acquisition_id))
        self._register_aborted(self.journal.upload(acquisition_id), reason)
        self.journal.set_state(acquisition_id, State.ABORTED)
        log.info("aloha: %s is aborted: %s", acquisition_id, reason)

    def _register_complete(self, upload: AcquisitionUpload) -> None:
        """Enter the acquisition and its tiles; again it changes nothing."""
        key, register = upload.acquisition_id, self._register
        register.ensure_acquisition(upload)
        register.put_tiles(key, upload.tiles)
        place = self._store.url(layout.uploaded_acquisition(key))
        register.add_place(key, place, holds="tiles")
        # Behind the tiles: a status is written once, and sums over the tiles with it.
        missing = upload.what_is_missing
        register.finish(
            key,
            status="complete",
            error_message=missing or None,
            ended_at=upload.ended_at,
        )
        register.set_transfer(key, "complete")
        run = register.run_of(key) if missing else None
        # A review that was faster has looked at all of it.
        if run is not None and run.qc_state == "pending":
            register.set_qc(key, "needs_review", by=BY)

    def _register_aborted(self, upload: AcquisitionUpload, reason: str) -> None:
        key, register = upload.acquisition_id, self._register
        # Else `complete` makes it, which was not reached.
        register.ensure_acquisition(upload)
        register.finish(
            key, status="aborted", error_message=reason, ended_at=upload.ended_at
        )

    def _state_in_store(self, acquisition_id: str) -> State | None:
        """The state that the store shows when the journal was lost."""
        name = layout.upload(acquisition_id)
        if not self._store.exists(name):
            return None
        self.journal.note_complete(self._store.read(name, AcquisitionUpload))
        return State.COMPLETE

    def _refuse_other_frames(self, upload: AcquisitionUpload) -> None:
        announced = {tile.tile_id: tile.sha256 for tile in upload.tiles}
        for row in self.journal.tiles(upload.acquisition_id):
            if row.uri is None or announced.get(row.tile_id) == row.sha256:
                continue
            found = announced.get(row.tile_id, "no such tile")
            raise ChecksumError(
                f"aloha: acquisition {upload.acquisition_id}: tile {row.tile_id} is "
                f"stored with sha256 {row.sha256}, the announcement has {found}; "
                "announce what was stored, or use another acquisition id",
                tile_id=row.tile_id,
            )

    def _refuse_missing(self, acquisition_id: str, rows: Iterable[TileRow]) -> None:
        rows = list(rows)
        missing = [row.tile_id for row in rows if row.uri is None]
        # The store is asked too: objects may be gone since the journal noted them.
        if not missing:
            names = [layout.uploaded_tile(acquisition_id, r.tile_id) for r in rows]
            with ThreadPoolExecutor(_LOOKERS) as pool:
                # Of a pyramid this is written last: with it all is there.
                there = pool.map(
                    lambda name: self._store.exists(f"{name}/zarr.json"), names
                )
                missing = [
                    row.tile_id
                    for row, is_there in zip(rows, there, strict=True)
                    if not is_there
                ]
            # So that the sender, who asks what is stored, sends these again.
            self.journal.forget_stored(acquisition_id, missing)
        if missing or not rows:
            first = f" (first: {missing[0]})" if missing else ""
            raise DataError(
                f"aloha: acquisition {acquisition_id}: {len(missing)} of {len(rows)} "
                f"announced tiles are not stored{first}; send them, then complete "
                "again",
                missing=len(missing),
            )

    def _refuse_without_room(self) -> None:
        local = self._store.local_path("")
        # Frames come in on one disk, and may be stored on another.
        places = [self.scratch] if local is None else [self.scratch, _existing(local)]
        free = min(shutil.disk_usage(place).free for place in places)
        needed = self._settings.min_free_gb * 1e9
        if free < needed:
            raise StorageError(
                f"aloha: {free / 1e9:.2f} GB are free on its disk, {needed / 1e9:g} GB "
                "are needed; free space, the sender tries again",
                full=True,
            )


def _existing(path: Path) -> Path:
    # The store is made with its first tile; `disk_usage` needs what is there.
    while not path.exists():
        path = path.parent
    return path


def _as_stored(tile: UploadedTile, row: TileRow) -> UploadedTile:
    return tile.model_copy(
        update={"uri": row.uri, "statistics": tile.statistics or row.measured}
    )


def _stopped(acquisition_id: str) -> AcquisitionStopped:
    return AcquisitionStopped(
        f"aloha: acquisition {acquisition_id} was aborted, its tiles are not taken; "
        "image it again under another acquisition id"
    )
