"""The pipeline's process: receives tiles, keeps the journal, and works in a thread."""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.pipeline.journal import Journal
from em_platform.acquisition.pipeline.lens_in_force import LensInForce
from em_platform.acquisition.pipeline.missed import (
    is_over,
    missed_tiles,
    recent_folders,
)
from em_platform.acquisition.pipeline.noted import Job, NotedTile, noted
from em_platform.acquisition.pipeline.tile_worker import TileWorker
from em_platform.acquisition.recorder.events import RAW, SCOPE
from em_platform.acquisition.roi import rotation_rad
from em_platform.config import Settings
from em_platform.errors import PlatformError, StorageError
from em_platform.messaging.bus import Bus
from em_platform.storage.atomic import remove_leftovers

log = logging.getLogger(__name__)

LENS = "lens_correction.transform"

_IDLE_S = 0.25
_RETRY_S = 1.0
_PRUNE_S = 60.0
_PREVIEWS_KEPT_S = 600.0
_FORGOTTEN_S = 7 * 24 * 3600.0
"""A montage without an end is over when nothing has come of it for so long."""


class PipelineService:
    """One of the processes that share the tiles.

    What is received is noted before it is worked on; the folder of frames is looked
    through at the start and whenever the broker was away.
    """

    def __init__(self, bus: Bus, journal: Journal, settings: Settings) -> None:
        self._bus = bus
        self._journal = journal
        self._settings = settings.acquisition.pipeline
        self._frames = frames_folder(settings)
        self._lens = LensInForce(settings)
        self._received: deque[NotedTile] = deque()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._reconnects = bus.reconnects
        self._pruned_at = time.monotonic()
        self._complaint = ""
        self._worker = TileWorker(
            bus,
            journal,
            settings,
            lens=self._lens,
            stopping=self._stopping,
            rotation_rad=rotation_rad(settings),
        )
        bus.subscribe(RAW, self._on_raw)
        bus.subscribe(LENS, self._on_lens)
        bus.subscribe(SCOPE, self._on_scope)
        for folder in recent_folders(self._frames):
            remove_leftovers(folder)  # what a killed process had half-written
        self._note_missed()
        self._thread = threading.Thread(target=self._work, name="pipeline", daemon=True)
        self._thread.start()

    def tick(self) -> None:
        """Free what dead processes hold, reconcile and prune when it is due.

        Raises
        ------
        PlatformError
            The work has ended by a fault of its own; the supervisor starts it anew.
        """
        if not self._thread.is_alive() and not self._stopping.is_set():
            raise PlatformError(
                "pipeline: the working thread has ended, it was expected to work; see "
                "the log before this line, and report it"
            )
        try:
            if self._journal.free():
                self._wake.set()
            if self._bus.connected and self._reconnects != self._bus.reconnects:
                self._reconnects = self._bus.reconnects
                self._note_missed()
            if time.monotonic() - self._pruned_at > _PRUNE_S:
                self._pruned_at = time.monotonic()
                self._prune()
        except StorageError as error:
            self._complain(error)

    def close(self) -> None:
        """Finish the step at hand, leave the rest to others."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout=5.0)
        try:
            self._journal.give_back()
        except StorageError as error:
            log.error("%s", error)
        self._journal.close()

    def _on_raw(self, message: Any, headers: Mapping[str, str]) -> None:
        self._received.append(noted(message.model_dump(mode="json"), headers))
        self._wake.set()

    def _on_lens(self, message: Any, _: Mapping[str, str]) -> None:
        if message.ok:
            self._lens.hear(message.transform)

    def _on_scope(self, message: Any, _: Mapping[str, str]) -> None:
        self._lens.change_magnification(message.mag)

    def _note_missed(self) -> None:
        found = missed_tiles(self._frames, self._journal)
        if found and (new := self._journal.note(found)):
            log.info(
                "pipeline: %d tiles were found on disk that the bus did not bring", new
            )
            self._wake.set()

    def _prune(self) -> None:
        for montage, montage_id in self._journal.idle(for_s=self._settings.keep_s):
            if montage and is_over(self._frames, montage_id, montage):
                self._journal.prune(montage)
        for montage, _ in self._journal.idle(for_s=_FORGOTTEN_S):
            self._journal.prune(montage)
        self._journal.prune_previews(older_than_s=_PREVIEWS_KEPT_S)

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self._note_received()
                job = self._journal.take()
                if job is None:
                    self._wake.wait(_IDLE_S)
                else:
                    self._do(job)
                self._complaint = ""
            except StorageError as error:
                self._complain(error)
                self._stopping.wait(_RETRY_S)

    def _do(self, job: Job) -> None:
        try:
            self._worker.do(job)
        except StorageError:
            self._journal.give_back()
            raise
        except Exception:  # one tile's fault must not end the work on all others
            log.exception("pipeline: a step of %s failed", job.tile.tile_id)
            self._journal.give_back(was_tried=True)

    def _note_received(self) -> None:
        """Note what has come, all in one commit; it is dropped only when it is."""
        received = [self._received[i] for i in range(len(self._received))]
        if received:
            self._journal.note(received)
            for _ in received:
                self._received.popleft()

    def _complain(self, error: Exception) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.error("%s", error)
