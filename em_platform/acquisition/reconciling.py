"""Looks again and again for what lies beside the frames and was not heard."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from em_platform.errors import StorageError
from em_platform.messaging.bus import Bus

log = logging.getLogger(__name__)

_SETTLED_NS = 2_000_000_000


class Reconciliation:
    """Of the folders of montages with what a service has noted.

    At the start, after the broker was away, and every `every_s`. `note` takes one
    folder and says how much of it was new; none is read again until it changes.
    """

    def __init__(
        self,
        bus: Bus,
        frames: Path,
        note: Callable[[Path], int],
        *,
        who: str,
        every_s: float,
    ) -> None:
        self._bus = bus
        self._frames = frames
        self._note = note
        self._who = who
        self._every_s = every_s
        self._looked_at = 0.0
        self._reconnects = 0
        self._seen_ns: dict[Path, int] = {}
        self._complaint = ""

    def tick(self) -> None:
        """Look when it is due."""
        late = time.monotonic() - self._looked_at > self._every_s
        returned = self._bus.connected and self._reconnects != self._bus.reconnects
        if late or returned:
            self._reconnects = self._bus.reconnects
            self.look()

    def look(self) -> None:
        """Note all that is new; what cannot be read or noted is logged."""
        self._looked_at = time.monotonic()
        try:
            folders = [path for path in self._frames.iterdir() if path.is_dir()]
            found = sum(self._look_into(folder) for folder in sorted(folders))
        except FileNotFoundError:
            return  # no frame was ever saved
        except (StorageError, OSError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("%s", error)
            return
        if found:
            log.info("%s: %d messages were found beside the frames", self._who, found)

    def _look_into(self, folder: Path) -> int:
        changed_ns = folder.stat().st_mtime_ns
        if self._seen_ns.get(folder) == changed_ns:
            return 0
        found = self._note(folder)
        # A file may still come within the same tick of the file system's clock.
        if time.time_ns() - changed_ns > _SETTLED_NS:
            self._seen_ns[folder] = changed_ns
        return found
