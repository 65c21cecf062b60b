"""One thread that does everything, in the order in which it came due."""

import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

Act = Callable[[], None]

_OVERDUE_S = 0.5


@dataclass(order=True, slots=True)
class Timer:
    """Something that is to be done at a moment, unless it is cancelled."""

    due_s: float
    number: int
    act: Act | None = field(compare=False)

    def cancel(self) -> None:
        """Do not do it; does no harm when it is done already."""
        self.act = None


class Loop:
    """Messages and timers for a state machine, one at a time in one thread.

    So no message meets the machine in the middle of a transition, and a timer that was
    cancelled never fires. An error of one act is logged and ends neither the loop nor
    the acts after it.
    """

    def __init__(self) -> None:
        self.failed = 0
        self._acts: queue.SimpleQueue[Act | None] = queue.SimpleQueue()
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def put(self, act: Act) -> None:
        """Have `act` done after all that waits; from any thread."""
        self._acts.put(act)

    def call_later(self, delay_s: float, act: Act) -> Timer:
        """Have `act` done in `delay_s` seconds; only from the loop's thread."""
        timer = Timer(time.monotonic() + delay_s, next(self._numbers), act)
        heapq.heappush(self._timers, timer)
        return timer

    def run(self) -> None:
        """Do acts and timers until `stop`."""
        while not self._stopped:
            try:
                act = self._acts.get(timeout=self._wait_s())
            except queue.Empty:
                act = None
            if act is not None:
                self._do(act)
            self._do_due()

    def stop(self) -> None:
        """End after the present act; from any thread."""
        self._stopped = True
        self._acts.put(None)

    def _wait_s(self) -> float | None:
        while self._timers and self._timers[0].act is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(self._timers[0].due_s - time.monotonic(), 0.0)

    def _do_due(self) -> None:
        """Do one timer; messages that wait come first, unless there is no end to them.

        An answer that came in time counts, though its time-out is due by now.
        """
        patience_s = 0.0 if self._acts.empty() else _OVERDUE_S
        if self._timers and self._timers[0].due_s + patience_s <= time.monotonic():
            timer = heapq.heappop(self._timers)
            if timer.act is not None:
                self._do(timer.act)

    def _do(self, act: Act) -> None:
        try:
            act()
        except Exception:  # the session must outlive any single fault
            self.failed += 1
            log.exception("coordinator: %s failed", act)
