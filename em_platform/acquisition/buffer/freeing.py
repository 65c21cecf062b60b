"""Deletes frames that aloha has verified, and those of cancelled montages."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.buffer.tables import FREED, SENT, MontageRow, TileRow
from em_platform.acquisition.frame_paths import checked_frame, tile_body_path
from em_platform.config import BufferSettings
from em_platform.errors import DataError, PlatformError
from em_platform.stitching.sidecar_files import live_paths

log = logging.getLogger(__name__)

# A message that comes late by a day is of no acquisition that is still open.
_FORGET_AFTER_S = 86_400.0
_LOOK_AGAIN_S = 5.0  # Each look asks the recorder's table

Recorded = Callable[[str, str], frozenset[str]]
"""`(montage_id, acquisition_id)` -> the tiles whose `tile.raw` is recorded for good."""


class Freer:
    """Frees the disk; what cannot be deleted is logged and tried again.

    Frames go when they are verified and old enough, or when the disk is short, the
    oldest first. The small bodies beside them stay until the recorder has them: without
    both nobody would know that the tile was imaged.
    """

    def __init__(
        self,
        journal: Journal,
        settings: BufferSettings,
        *,
        frames: Path,
        recorded: Recorded,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._frames = frames
        self._recorded = recorded
        self._warned: set[str] = set()
        self._look_again_at = 0.0

    def tick(self) -> None:
        """Delete what is due."""
        now = time.time()
        for montage in self._journal.answered_montages():
            age_s = now - (montage.answered_at or now)
            # the disk is looked at each time: the oldest may have made room enough
            if age_s >= self._settings.keep_s or self._is_short():
                self._free_frames(montage)
        self._free_cancelled(now)
        self._free_superseded(now)
        if time.monotonic() >= self._look_again_at:
            self._look_again_at = time.monotonic() + _LOOK_AGAIN_S
            for montage in self._journal.freed_montages():
                self._free_bodies(montage)
            self._journal.prune(before=now - _FORGET_AFTER_S)

    def free_bytes(self) -> int:
        """What is left on the disk of the frames."""
        place = self._frames
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def _is_short(self) -> bool:
        return self.free_bytes() < self._settings.min_free_gb * 1e9  # decimal GB

    def _free_frames(self, montage: MontageRow) -> None:
        key = montage.acquisition_id
        sent = [tile for tile in self._journal.tiles(key) if tile.state == SENT]
        gone = [tile.tile_id for tile in sent if self._delete(self._images_of(tile))]
        self._journal.note_freed(gone)
        if len(gone) == len(sent):
            self._journal.note_montage_freed(key)
        if gone:
            log.info(
                "buffer: %s: %d frames are deleted, aloha has them", key, len(gone)
            )

    def _free_bodies(self, montage: MontageRow) -> None:
        key = montage.acquisition_id
        freed = [tile for tile in self._journal.tiles(key) if tile.state == FREED]
        try:
            recorded = self._recorded(montage.montage_id, key)
        except PlatformError as error:
            self._warn(f"{error} The messages beside the frames of {key} stay.")
            return
        if not recorded.issuperset(tile.tile_id for tile in freed):
            self._warn(
                f"buffer: {key}: the recorder does not have all of its tiles; the "
                "messages beside its frames stay until it has"
            )
            return
        if self._delete([self._body_of(tile) for tile in freed]):
            self._journal.note_bodies_freed(key)

    def _free_cancelled(self, now: float) -> None:
        before = now - self._settings.keep_cancelled_s
        gone = [
            tile.tile_id
            for tile in self._journal.cancelled_tiles(before=before)
            if self._delete(self._all_of(tile))
        ]
        self._journal.note_freed(gone)
        if gone:
            log.info("buffer: %d frames of cancelled montages are deleted", len(gone))

    def _free_superseded(self, now: float) -> None:
        before = now - self._settings.keep_cancelled_s
        gone = [
            tile.tile_id
            for tile in self._journal.superseded_tiles(before=before)
            if self._delete(self._all_of(tile))
        ]
        if gone:
            self._journal.forget(gone)
            log.info("buffer: %d frames that were imaged again are deleted", len(gone))

    def _body_of(self, tile: TileRow) -> Path:
        return tile_body_path(self._frames, tile.montage_id, tile.tile_id)

    def _all_of(self, tile: TileRow) -> list[Path]:
        images = self._images_of(tile)
        return [*images, self._body_of(tile)] if images else []

    def _images_of(self, tile: TileRow) -> list[Path]:
        """A frame and what was made of it; none where its path is not its own.

        It counts as deleted then, else it would be tried for ever.
        """
        montage_id, tile_id = tile.montage_id, tile.tile_id
        try:
            # Again: a journal of an older version took any path.
            frame = checked_frame(self._frames, tile.path, montage_id, tile_id)
        except DataError as error:
            self._warn(f"buffer: {error}; what lies there is not deleted")
            return []
        return [frame, *map(Path, live_paths(str(frame)))]

    def _delete(self, paths: Iterable[Path]) -> bool:
        """Delete files; False where one is there still and should not be."""
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._warn(
                    f"buffer: {path} could not be deleted ({error.strerror}); allow "
                    "it, it is tried again"
                )
                return False
        return True

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            log.warning("%s", sentence)
