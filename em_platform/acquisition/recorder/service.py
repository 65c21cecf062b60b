"""Records what is said on the bus, and what lies on disk and was not heard."""

import logging
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from em_platform.acquisition.recorder.events import (
    COMPLETE,
    RAW,
    SCOPE,
    TOPICS,
    Message,
    safe_id,
)
from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.acquisition.recorder.reconcile import Reconciliation, scan_folder
from em_platform.errors import StorageError
from em_platform.messaging.bus import Bus

log = logging.getLogger(__name__)

_COMMIT_AT_MOST = 500
_RETRY_S = 1.0
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
        self, bus: Bus, recorder: Ledger, *, frames: Path, reconcile_s: float = 30.0
    ) -> None:
        self._recorder = recorder
        self._frames = frames
        self._reconciliation = Reconciliation(
            bus,
            frames,
            recorder.reconcile_montage,
            who="recorder",
            every_s=reconcile_s,
        )
        self._waiting: queue.Queue[Message | None] = queue.Queue()
        self._closing = threading.Event()
        self._scope: tuple[Any, ...] = ()
        self._complaint = ""
        bus.subscribe_many(TOPICS, self._hear)
        self._reconciliation.look()
        self._writer = threading.Thread(
            target=self._write, name="recorder", daemon=True
        )
        self._writer.start()

    def tick(self) -> None:
        """Reconcile when it is due."""
        self._reconciliation.tick()

    def close(self) -> None:
        """Write what has arrived, and end."""
        self._closing.set()
        self._waiting.put(None)
        self._writer.join()

    def _hear(self, message: Any, headers: Mapping[str, str]) -> None:
        """Queue one message, unless it says nothing that would be looked for."""
        topic = headers["topic"]
        if topic == RAW and not message.montage_id:
            return  # a frame for the operator's screen
        if topic == SCOPE:
            now = (message.mag_mode, message.mag)
            if now == self._scope:
                return  # said each second; only the magnification is looked for
            self._scope = now
        kept = {n: text for n, text in headers.items() if n in _KEPT_HEADERS}
        self._waiting.put(Message(topic, message.model_dump(mode="json"), kept))

    def _write(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < _COMMIT_AT_MOST and not self._waiting.empty():
                batch.append(self._waiting.get())
            self._record([said for said in batch if said is not None])
            if None in batch:
                return

    def _record(self, said: list[Message]) -> None:
        """Append all, however long the table cannot be written."""
        while said:
            try:
                self._recorder.append_all([*self._unheard(said), *said])
            except StorageError as error:
                self._complain(error)
                if self._closing.wait(_RETRY_S):
                    log.error("recorder: %d events could not be recorded", len(said))
                    return
            else:
                return

    def _unheard(self, said: list[Message]) -> list[Message]:
        """Frames of the montages that `said` completes which nobody heard of.

        They are recorded first: who sees a completion finds all its tiles.
        """
        heard = {each.body["tile_id"] for each in said if each.topic == RAW}
        found: list[Message] = []
        for each in said:
            montage_id = each.body.get("montage_id", "")
            # An id that is no name of a folder has no folder.
            if each.topic == COMPLETE and safe_id(montage_id) == montage_id:
                found += scan_folder(
                    self._frames / montage_id,
                    recorded=heard | self._recorder.tile_ids(montage_id),
                    is_complete=lambda _: True,
                )
        return found

    def _complain(self, error: Exception) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.error("%s", error)
