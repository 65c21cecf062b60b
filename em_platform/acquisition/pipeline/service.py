"""The pipeline's process: hears of tiles, keeps the journal, and works in a thread."""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.pipeline.journal import Journal
from em_platform.acquisition.pipeline.journaled import Job, JournaledTile, journaled
from em_platform.acquisition.pipeline.lens_in_force import LensInForce
from em_platform.acquisition.pipeline.missed_tiles import (
    is_over,
    missed_tiles,
    recent_folders,
)
from em_platform.acquisition.pipeline.tile_worker import TileWorker
from em_platform.acquisition.recorder.events import RAW, SCOPE
from em_platform.acquisition.roi import rotation_rad
from em_platform.config import Settings
from em_platform.errors import PlatformError, StorageError, is_own_fault
from em_platform.messaging.bus import Bus
from em_platform.storage.atomic import remove_leftovers
from em_platform.storage.own_faults import OwnFaults

log = logging.getLogger(__name__)

LENS = "lens_correction.transform"

_IDLE_S = 0.25  # tiles that others process make matches ready without a message
_PAUSE_S = 0.5  # between two tries while this computer fails; a tile waits longer
_FAILING_S = 15.0  # more than the longest pause
_LOOK_S = 30.0  # seldom: only what no message brought is found by it
_PRUNE_S = 60.0  # old rows cost room only
_PREVIEWS_KEPT_S = 600.0  # so long a sending that comes twice is recognised
_FORGOTTEN_S = 7 * 24 * 3600.0
"""A montage without an end is over when nothing has come of it for so long."""


class PipelineService:
    """One of the processes that share the tiles.

    What is received is journaled before it is worked on; the folder of frames is looked
    through at the start and whenever the broker was away.
    """

    def __init__(self, bus: Bus, journal: Journal, settings: Settings) -> None:
        self._bus = bus
        self._journal = journal
        self._settings = settings.acquisition.pipeline
        self._frames = frames_folder(settings)
        self._lens = LensInForce(settings)
        self._received: deque[JournaledTile] = deque()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._reconnects = bus.reconnects
        self._pruned_at, self._looked_at = time.monotonic(), time.time()
        self._faults, self._pause_s = OwnFaults("pipeline"), 0.0
        self._failing: dict[str, float] = {}
        self._worker = TileWorker(
            bus,
            journal,
            settings,
            lens=self._lens,
            stopping=self._stopping,
            rotation_rad=rotation_rad(settings),
        )
        # Before the folder is read: what comes meanwhile is received twice, not never.
        bus.subscribe(RAW, self._on_raw)
        bus.subscribe(LENS, self._on_lens)
        bus.subscribe(SCOPE, self._on_scope)
        for folder in recent_folders(self._frames, time.time() - _FORGOTTEN_S):
            remove_leftovers(folder)  # what a killed process had half-written
        self._journal_missed(since_s=time.time() - _FORGOTTEN_S)
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
        if self._journal.free():
            self._wake.set()
        # What was published while the broker was away was published to nobody; seldom
        # the same happens with a broker that was there.
        returned = self._bus.connected and self._reconnects != self._bus.reconnects
        now_s = time.time()
        if returned or now_s - self._looked_at > _LOOK_S:
            reconnects = self._bus.reconnects
            self._journal_missed(since_s=self._looked_at - _LOOK_S)
            self._reconnects, self._looked_at = reconnects, now_s
        if time.monotonic() - self._pruned_at > _PRUNE_S:
            self._pruned_at = time.monotonic()
            self._prune()

    def close(self) -> None:
        """Finish the step at hand, leave the rest to others."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout=5.0)  # within the 8 s that the supervisor gives
        try:
            self._journal.give_back()
        except StorageError as error:
            log.error("%s", error)
        self._journal.close()

    def _on_raw(self, message: Any, headers: Mapping[str, str]) -> None:
        # Not journaled here: the working thread does so for all that waits at once.
        self._received.append(journaled(message.model_dump(mode="json"), headers))
        self._wake.set()

    def _on_lens(self, message: Any, _: Mapping[str, str]) -> None:
        # After a bad one the coordinator images the lens again.
        if message.ok:
            self._lens.receive(message.transform)

    def _on_scope(self, message: Any, _: Mapping[str, str]) -> None:
        self._lens.change_magnification(message.mag)

    def _journal_missed(self, *, since_s: float) -> None:
        found = missed_tiles(self._frames, self._journal, since_s=since_s)
        if found and (new := self._journal.add(found)):
            log.info("pipeline: %d tiles without a message were found on disk", new)
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
            self._wake.clear()  # before the look: what comes after it wakes again
            job: Job | None = None
            try:
                # What the last try could not give back, as the journal was locked.
                if self._failing:
                    self._journal.give_back(pause_s=self._pause_s)
                self._journal_received()
                job = self._journal.claim_next()
                if job is None:
                    self._wake.wait(_IDLE_S)
                else:
                    self._do(job)
            except Exception as error:
                if not is_own_fault(error):
                    raise
                self._put_off(job, error)
            else:
                self._succeed(job)

    def _do(self, job: Job) -> None:
        try:
            self._worker.do(job)
        except Exception as error:  # one tile's fault must not end the work on others
            # No fault of the tile: it counts as no attempt, see `_put_off`.
            if is_own_fault(error):
                raise
            log.exception("pipeline: a step of %s failed", job.tile.tile_id)
            self._journal.give_back(was_tried=True)

    def _put_off(self, job: Job | None, error: Exception) -> None:
        """Let others be tried before a tile at which this computer failed."""
        self._failing[job.tile.key if job else ""] = time.monotonic()
        self._pause_s = self._faults.pause_s(error)
        self._stopping.wait(_PAUSE_S)

    def _succeed(self, job: Job | None) -> None:
        if not self._failing:
            return
        # One that another process has done since is not failing any more.
        since_s = time.monotonic() - _FAILING_S
        done = {"", job.tile.key if job else ""}
        self._failing = {
            key: at_s
            for key, at_s in self._failing.items()
            if key not in done and at_s > since_s
        }
        if not self._failing:
            self._faults.over()

    def _journal_received(self) -> None:
        """Note what has come, all in one commit; it is dropped only when it is."""
        # By index: a deque that another thread appends to cannot be iterated over.
        received = [self._received[i] for i in range(len(self._received))]
        if received:
            self._journal.add(received)
            for _ in received:
                self._received.popleft()
