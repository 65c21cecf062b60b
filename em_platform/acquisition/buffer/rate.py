"""How fast something has gone lately."""

import threading
import time
from collections import deque

_WINDOW_S = 5.0


class Rate:
    """Bytes over the last seconds; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lately: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        """So many bytes have gone just now."""
        with self._lock:
            self._lately.append((time.monotonic(), count))

    def bits_per_s(self) -> int:
        """The mean over the last five seconds."""
        since = time.monotonic() - _WINDOW_S
        with self._lock:
            while self._lately and self._lately[0][0] < since:
                self._lately.popleft()
            return round(8 * sum(count for _, count in self._lately) / _WINDOW_S)
