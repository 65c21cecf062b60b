"""How gently a source is asked: so many requests at once, so many in a second."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Also where a server asks for hours: the item then fails and says so, and is retried
# with the next run.
_MOST_PAUSE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What a wait needs of the world; tests bring their own."""

    # The monotonic clock does not jump when the time of day is set.
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


class Pace:
    """Lets requests through, for all threads that share it.

    As many as `at_once` may start together; after that one may start every
    `1 / per_second` seconds (generic cell rate algorithm, ITU-T I.371).
    """

    def __init__(self, *, at_once: int, per_second: float, waits: Waits) -> None:
        self._places = threading.BoundedSemaphore(at_once)
        self._interval_s = 1.0 / per_second
        self._burst_s = (at_once - 1) * self._interval_s
        self._waits = waits
        self._lock = threading.Lock()
        self._next_s = waits.clock()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Wait for a place and the moment to start; hold the place for the block."""
        with self._places:
            wait_s = self._reserve()
            if wait_s > 0:
                # Outside of the lock: others reserve their moments meanwhile.
                self._waits.sleep(wait_s)
            yield

    def _reserve(self) -> float:
        with self._lock:
            now_s = self._waits.clock()
            # Time in which nothing was asked saves up no more than one burst.
            self._next_s = max(self._next_s, now_s)
            wait_s = self._next_s - self._burst_s - now_s
            self._next_s += self._interval_s
        return wait_s


def pause_s(tried: int, *, backoff_s: float, chance: float, asked_s: float) -> float:
    """How long to wait after `tried` failures in a row.

    Doubled each time and shortened at random from all to nothing ("full jitter"), so
    that many who failed together do not come back together; at least `asked_s`, which
    the other side asked for, and never more than two minutes.
    """
    # 30 doublings pass any limit; a thousand would overflow a float.
    longest_s = min(backoff_s * 2.0 ** min(tried - 1, 30), _MOST_PAUSE_S)
    return min(max(longest_s * chance, asked_s), _MOST_PAUSE_S)
