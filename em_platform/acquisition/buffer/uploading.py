"""Sends montages that have ended to aloha, until it has verified them."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from em_platform.acquisition.buffer.aloha_client import AlohaClient, Backoff, Rate
from em_platform.acquisition.buffer.assembling import (
    EndedAcquisition,
    cancelled_upload,
    complete_upload,
)
from em_platform.acquisition.buffer.intake import NOTED, Reader, found_in
from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.buffer.tables import IMAGED, REFUSED, MontageRow, TileRow
from em_platform.acquisition.frame_paths import (
    acquisition_of,
    checked_frame,
)
from em_platform.config import AcquisitionSettings
from em_platform.errors import (
    ChecksumError,
    DataError,
    FormatError,
    PlatformError,
    SourceRefused,
    SourceUnavailable,
    is_own_fault,
)
from em_platform.model import AcquisitionUpload

log = logging.getLogger(__name__)

_NEVER_A_FRAME = {413, 422}
"""What aloha answers to bytes that it will never take."""

_OTHER_BYTES = 409  # Aloha has been announced another checksum for this tile
_NOT_LET_IN = {401, 403}  # A wrong token is wrong for all montages
_THIS_ONE_REFUSED = 502  # the TEM database refused this acquisition

_ALOHA, _REGISTER = "aloha", "the TEM database, by aloha"
"""What holds up all montages, or all that are sent, when it does not serve."""


class Uploader:
    """Sends one montage after the other, some tiles of it side by side.

    What was sent is in the journal; a call goes on where the last one stopped. A
    montage that is blocked is tried again later and later, the others meanwhile. While
    aloha does not serve, one montage tries for all. `backlog` says what is in the way
    now, acquisition -> sentence.
    """

    def __init__(
        self,
        journal: Journal,
        client: AlohaClient,
        settings: AcquisitionSettings,
        *,
        frames: Path,
        stop: threading.Event,
    ) -> None:
        self.rate = Rate()
        self.backlog: dict[str, str] = {}
        self._journal = journal
        self._client = client
        self._settings = settings
        self._frames = frames
        self._stop = stop
        self._reader = Reader(journal)
        self._backoff = Backoff(settings.buffer)
        self._sent: set[str] = set()  # acquisitions of which only the end lacks
        # What has come of those that wait for figures, and when that was news.
        self._news: dict[str, tuple[list[int], float]] = {}

    def tick(self) -> None:
        """Send all that is due."""
        for key in self._journal.open_ids():
            if self._stop.is_set() or self._backoff.waits(_ALOHA):
                return
            if self._backoff.waits(key):
                continue
            if key in self._sent and self._backoff.waits(_REGISTER):
                continue
            montage = self._journal.montage(key)
            if montage is not None and self._is_due(montage):
                self._try(montage)

    def _is_due(self, montage: MontageRow) -> bool:
        if montage.is_cancelled or not self._settings.buffer.statistics_wait_s:
            return True
        tiles = len(montage.body["tiles"])
        key = montage.acquisition_id
        counts = [self._journal.noted(key, topic) for topic in NOTED]
        if all(count >= tiles for count in counts):
            return True
        # A pipeline that is merely slow is waited for: from its last news on.
        if counts != self._news.get(key, (None, 0.0))[0]:
            self._news[key] = counts, time.monotonic()
        waited_s = time.monotonic() - self._news[key][1]
        return waited_s >= self._settings.buffer.statistics_wait_s

    def _try(self, montage: MontageRow) -> None:
        key = montage.acquisition_id
        try:
            if montage.is_cancelled:
                self._cancel(montage)
            else:
                self._upload(montage)
        except PlatformError as error:
            self._put_off(montage, error)
        else:
            self._news.pop(key, None)
            self.backlog.pop(key, None)
            for name in (key, _ALOHA, _REGISTER):
                self._backoff.succeed(name)

    def _put_off(self, montage: MontageRow, error: PlatformError) -> None:
        """Say what blocks a montage; where it blocks all, let all wait."""
        key = montage.acquisition_id
        self._backoff.fail(key)
        status = error.facts.get("status")
        if isinstance(error, SourceUnavailable) and status != _THIS_ONE_REFUSED:
            # What has been sent is taken; it is the register that does not answer.
            self._backoff.fail(_REGISTER if key in self._sent else _ALOHA)
        elif isinstance(error, SourceRefused):
            if status in _NOT_LET_IN:
                self._backoff.fail(_ALOHA)
            self._sent.discard(key)  # begin with the announcement
        self.backlog[key] = str(error)
        if str(error) != montage.sentence:
            log.warning("buffer: %s waits: %s", key, error)
            self._journal.note_sentence(key, str(error))

    def _upload(self, montage: MontageRow) -> None:
        key = montage.acquisition_id
        # again: a rejected frame is a failure in the next announcement
        while key not in self._sent:
            upload = complete_upload(self._known(montage), self._settings)
            # aloha may have frames whose answer never came
            self._journal.note_sent(self._client.announce(upload))
            self.backlog.pop(key, None)
            if self._send_all(upload):
                self._sent.add(key)
            elif self._stop.is_set():
                return
        tiles = self._client.complete(key)
        self._journal.note_answered(key)
        self._sent.discard(key)
        log.info("buffer: %s is uploaded and verified, %d tiles", key, tiles)

    def _known(self, montage: MontageRow) -> EndedAcquisition:
        """What is known of an acquisition now, its frames looked at."""
        key = montage.acquisition_id
        for tile in self._journal.tiles(key):
            if tile.state in (IMAGED, REFUSED) and not _is_as_read(tile):
                self._reader.read(tile)
        return EndedAcquisition(
            montage=montage,
            tiles=self._journal.tiles(key),
            notes=self._journal.notes(key),
            roi=self._journal.roi(montage.montage_id),
            instrument=self._journal.instrument(montage.montage_id),
        )

    def _send_all(self, upload: AcquisitionUpload) -> bool:
        """Send what is not sent; False where a frame was rejected or all is to end.

        Raises
        ------
        SourceUnavailable
            Aloha does not serve; what others of the tiles were on their way is sent.
        SourceRefused
            Aloha wants none of the tiles.
        """
        wanted = {tile.tile_id for tile in upload.tiles}
        waiting = deque(
            tile
            for tile in self._journal.tiles(upload.acquisition_id)
            if tile.state == IMAGED and tile.tile_id in wanted
        )
        outcome = _Outcome()

        def work() -> None:
            while waiting and not outcome.errors and not self._stop.is_set():
                try:
                    tile = waiting.popleft()
                except IndexError:
                    return  # another thread took the last one
                try:
                    if not self._send(upload.acquisition_id, tile):
                        # no lock: a count may be lost, but never to zero
                        outcome.rejected += 1
                except Exception as error:  # raised again below
                    outcome.errors.append(error)

        # Daemons: an answer that does not come must not hold up the end.
        threads = [
            threading.Thread(target=work, name="upload", daemon=True)
            for _ in range(min(self._settings.buffer.parallel, len(waiting)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not self._stop.is_set():
                # in short waits: the end of the service is seen
                thread.join(0.2)
        if outcome.errors:
            raise outcome.errors[0]
        return not outcome.rejected and not self._stop.is_set()

    def _send(self, acquisition_id: str, tile: TileRow) -> bool:
        """Send one frame; False where it is rejected."""
        try:
            # Again: a journal of an older version took any path.
            checked_frame(self._frames, tile.path, tile.montage_id, tile.tile_id)
        except DataError as error:
            self._reject(tile, str(error))
            return False
        try:
            answer = self._client.send(
                acquisition_id, tile.tile_id, Path(tile.path), sent=self.rate.add
            )
        except SourceRefused as error:
            status = error.facts.get("status")
            if status == _OTHER_BYTES and (sentence := _changed(tile)):
                self._reject(tile, sentence)
                return False
            if status not in _NEVER_A_FRAME:
                raise
            self._reject(tile, str(error))
            return False
        except OSError as error:
            if is_own_fault(error):
                raise
            self._reject(
                tile,
                f"tile {tile.tile_id}: its frame {tile.path} cannot be read "
                f"({error.strerror or error}), it was there when the tile was imaged; "
                "put it back or image the tile again",
            )
            return False
        if answer.sha256 != tile.sha256:
            raise ChecksumError(
                f"buffer: tile {tile.tile_id}: aloha answered with sha256 "
                f"{answer.sha256}, the frame has {tile.sha256}; it is sent again",
            )
        self._journal.note_sent([tile.tile_id])
        return True

    def _reject(self, tile: TileRow, sentence: str) -> None:
        log.warning("buffer: %s; it stays on the disk, the others go on", sentence)
        self._journal.note_refused(tile.tile_id, sentence)

    def _cancel(self, montage: MontageRow) -> None:
        key = montage.acquisition_id
        known = self._known(montage)
        is_named = any(acquisition_of(t.tile_id) != t.tile_id for t in known.tiles)
        # else the key is a tile's id, or no frame gives the announcement its size
        if is_named and any(tile.height_px for tile in known.tiles):
            self._client.announce(cancelled_upload(known, self._settings))
            self._client.abort(key, montage.body["reason"])
        self._journal.note_answered(key)
        log.info("buffer: %s was cancelled, aloha knows", key)


@dataclass(slots=True)
class _Outcome:
    """What came of sending side by side."""

    rejected: int = 0
    errors: list[Exception] = field(default_factory=list)


def _changed(tile: TileRow) -> str:
    """Say how the frame's file differs from what was imaged; empty where it does not.

    A file that was written again since is read and announced again instead.
    """
    if not _is_as_read(tile):
        return ""
    try:
        found = found_in(Path(tile.path))["sha256"]
    except FormatError as error:
        return str(error)
    if found == tile.sha256:
        return ""
    return (
        f"tile {tile.tile_id}: {tile.path} changed on the disk: its sha256 is {found}, "
        f"after imaging it was {tile.sha256}; look at that disk and image it again"
    )


def _is_as_read(tile: TileRow) -> bool:
    """Whether the frame was read, and its file was not written since."""
    if tile.sha256 is None:
        return False
    try:
        found = Path(tile.path).stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (tile.bytes, tile.mtime_ns)
