"""What a service reads from the ledger: all that the bus did not bring it."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.events import Event
from em_platform.config import Settings
from em_platform.errors import MessageRejected, is_own_fault
from em_platform.messaging.mailboxes import Handler
from em_platform.messaging.topics import fitting
from em_platform.storage.own_faults import OwnFaults

log = logging.getLogger(__name__)

SEQUENCE = "recorded"
"""Header of what comes from the ledger: its number there."""

# Bodies of so many are in memory at once; one tile has about 30 kB of them.
_BATCH = 500
# Within it a message that the bus lost comes after all. The newest rows are asked for
# their topics and tiles only, so that it costs next to nothing where none was lost.
_EVERY_S = 2.0


class Consumer:
    """A name, a cursor and a function; safe to use from one thread.

    The bus brings what happens now, at once; the ledger brings the same again, and with
    it what happened while the service was down, or was lost with a broker. Both hand it
    to one `handle(message, headers)`: at least once, so its effects are idempotent.
    `is_known(topic, tile_id)` spares the reading of what has come already.

    The cursor is kept in memory: what a service knows of the present acquisitions is
    what it has read of them, and both begin anew together. While the ledger cannot be
    read the service goes on by the bus alone.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        topics: Iterable[str],
        handle: Handler,
        *,
        is_known: Callable[[str, str], bool],
    ) -> None:
        self._settings = settings
        self._name = name
        self._topics = tuple(topics)
        self._handle = handle
        self._is_known = is_known
        self._ledger: Any = None
        self._cursor = 0
        self._resume_from = 0
        self._due_s = 0.0
        self._faults = OwnFaults(f"{name}: what the bus did not bring")

    def resume(self, acquisitions: int) -> int:
        """Read all about the acquisitions begun last; how many messages it were."""
        # Where those acquisitions begin is asked when the ledger can be read.
        self._cursor = -1
        self._resume_from = acquisitions
        return self.catch_up()

    def tick(self) -> int:
        """Catch up when it is due; how many messages were handed over."""
        return self.catch_up() if time.monotonic() >= self._due_s else 0

    def catch_up(self) -> int:
        """Hand over what was recorded since; how many messages."""
        self._due_s = time.monotonic() + _EVERY_S
        try:
            found = self._read()
        except Exception as error:
            if not is_own_fault(error):
                raise
            self._due_s = time.monotonic() + self._faults.pause_s(error)
            return 0
        self._faults.over()
        return found

    def close(self) -> None:
        """Close the ledger."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _read(self) -> int:
        self._ledger = self._ledger or ledger_of(self._settings)
        if self._cursor < 0:
            self._cursor = self._ledger.begin_of_last(self._resume_from)
        found = 0
        while rows := self._ledger.index(
            self._cursor, topics=self._topics, limit=_BATCH
        ):
            new = [n for n, topic, tile in rows if not self._is_known(topic, tile)]
            for event in self._ledger.numbered(new):
                self._hand_over(event)
                found += 1
            # Behind the handler: what it raises on is read again.
            self._cursor = rows[-1][0]
        return found

    def _hand_over(self, event: Event) -> None:
        try:
            message = fitting(event.topic, event.body)
        except MessageRejected as error:  # of another version of the platform
            log.warning("%s: event %d is passed over: %s", self._name, event.seq, error)
            return
        headers = {**event.headers, "topic": event.topic, SEQUENCE: str(event.seq)}
        self._handle(message, headers)
