"""Records what the bus brings, and what is on disk and the bus did not bring."""

import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from em_platform.acquisition.recorder.events import (
    COMPLETE,
    KEPT_ACQUISITIONS,
    RAW,
    RESULTS,
    SCOPE,
    STATUS,
    TOPICS,
    Message,
    safe_id,
)
from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.acquisition.recorder.reconcile import Reconciliation, scan_folder
from em_platform.errors import PlatformError, is_own_fault
from em_platform.messaging.bus import Bus
from em_platform.storage.own_faults import OwnFaults

log = logging.getLogger(__name__)

_COMMIT_AT_MOST = 500  # Bounds what a failed commit has to try again
_WAITING = 5000  # messages in memory; the bus keeps the others, and counts them
_PRUNE_S = 300.0  # Old rows cost room only, and deleting them holds the one write lock
# Of a frame that only the operator looked at these have no montage.
_OF_A_TILE = frozenset((RAW, *RESULTS))
# Both are sent each second, which would be 50 MB a day; only changes are looked for.
_CHANGES = {SCOPE: ("mag_mode", "mag"), STATUS: ("status", "reason")}
# Who sent it and which sending it was; routing headers of the broker are left out.
_KEPT_HEADERS = frozenset(
    ("source", "service", "hostname", "pid", "sent_at", "sequence", "version")
)


class RecorderService:
    """Feeds a recorder from a bus and a folder of frames.

    One thread writes, in the order of arrival; what came while it wrote goes into one
    commit. While the table cannot be written everything waits. The folder is
    reconciled at the start, after the broker was away, and every `reconcile_s`.
    """

    def __init__(
        self, bus: Bus, ledger: Ledger, *, frames: Path, reconcile_s: float = 30.0
    ) -> None:
        self._ledger = ledger
        self._frames = frames
        self._reconciliation = Reconciliation(
            bus,
            frames,
            ledger.reconcile_montage,
            who="recorder",
            every_s=reconcile_s,
        )
        self._waiting: queue.Queue[Message | None] = queue.Queue(_WAITING)
        self._closing = threading.Event()
        self._last: dict[str, tuple[Any, ...]] = {}
        self._faults = OwnFaults("recorder")
        self._prune_due_s = time.monotonic() + _PRUNE_S
        bus.subscribe_many(TOPICS, self._receive)
        self._reconciliation.look()  # after the bus: nothing falls in between
        self._writer = threading.Thread(
            target=self._write, name="recorder", daemon=True
        )
        self._writer.start()

    def tick(self) -> None:
        """Reconcile and prune when it is due.

        Raises
        ------
        PlatformError
            The writing thread has ended by a fault of its own; the supervisor starts
            all anew.
        """
        if not self._writer.is_alive():
            raise PlatformError(
                "recorder: the writing thread has ended, it was expected to work; see "
                "the log before this line, and report it"
            )
        self._reconciliation.tick()
        if time.monotonic() >= self._prune_due_s:
            self._prune_due_s = time.monotonic() + _PRUNE_S
            self._prune()

    def close(self) -> None:
        """Write what has arrived, and end."""
        self._closing.set()
        self._waiting.put(None)
        self._writer.join()  # What waits in the queue may be nowhere else

    def _receive(self, message: Any, headers: Mapping[str, str]) -> None:
        """Queue one message, unless nobody would look for it."""
        topic = headers["topic"]
        if topic in _OF_A_TILE and not message.montage_id:
            return  # a frame for the operator's screen
        if topic in _CHANGES:
            now = tuple(getattr(message, name) for name in _CHANGES[topic])
            if now == self._last.get(topic):
                return
            self._last[topic] = now
        kept = {n: text for n, text in headers.items() if n in _KEPT_HEADERS}
        self._waiting.put(Message(topic, message.model_dump(mode="json"), kept))

    def _write(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < _COMMIT_AT_MOST and not self._waiting.empty():
                batch.append(self._waiting.get())
            self._record([each for each in batch if each is not None])
            if None in batch:
                return

    def _record(self, messages: list[Message]) -> None:
        """Append all, however long the table cannot be written."""
        while messages:
            try:
                self._ledger.append_all([*self._missed_frames(messages), *messages])
            except Exception as error:
                if not is_own_fault(error):
                    raise
                if self._closing.wait(self._faults.pause_s(error)):
                    log.error(
                        "recorder: %d events could not be recorded", len(messages)
                    )
                    return
            else:
                self._faults.over()
                return

    def _missed_frames(self, messages: list[Message]) -> list[Message]:
        """Frames of the montages that `messages` complete that the bus did not bring.

        They are recorded first: who sees a completion finds all its tiles.
        """
        received = {each.body["tile_id"] for each in messages if each.topic == RAW}
        found: list[Message] = []
        for each in messages:
            montage_id = each.body.get("montage_id", "")
            # An id that is no name of a folder has no folder.
            if each.topic == COMPLETE and safe_id(montage_id) == montage_id:
                found += scan_folder(
                    self._frames / montage_id,
                    recorded=received | self._ledger.tile_ids(montage_id),
                    is_complete=lambda _: True,
                )
        return found

    def _prune(self) -> None:
        """Delete measurements of acquisitions that no consumer resumes with."""
        before = self._ledger.begin_of_last(KEPT_ACQUISITIONS)
        while before and (gone := self._ledger.prune_results(before=before)):
            log.info("recorder: %d old measurements of tiles are deleted", gone)
