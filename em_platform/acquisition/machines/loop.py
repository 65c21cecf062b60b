"""One thread that handles all messages and timers in order, fed from the bus."""

import heapq
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pigeon_transitions.client import BaseClient

from em_platform.errors import BrokerUnavailable
from em_platform.messaging.bus import Bus

log = logging.getLogger(__name__)

Act = Callable[[], None]

_OVERDUE_S = 0.5  # a flood of messages holds up a time-out no longer than this


@dataclass(order=True, slots=True)
class Timer:
    """Something that is to be done at a moment, unless it is cancelled."""

    due_s: float
    # of equal times the first made is done first; acts have no order
    number: int
    act: Act | None = field(compare=False)

    def cancel(self) -> None:
        """Do not do it; does no harm when it is done already."""
        # it stays in the heap, which takes out only its first one cheaply
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
        self._acts.put(None)  # wakes `run`, which waits for an act

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


class BusClient(BaseClient):  # type: ignore[misc]
    """Hands every message to the loop, in the order in which it came.

    While the broker is away `send` waits for it: nothing can be done without. Only the
    end of the service (`closing`) ends the wait; the message is then given up.
    """

    def __init__(self, bus: Bus, loop: Loop) -> None:
        super().__init__()
        self.closing = threading.Event()
        self._bus = bus
        self._loop = loop
        self._topics: list[str] = []
        self._received_s: dict[str, float] = {}

    def subscribe(self, topic: str) -> None:
        """Note a topic; `listen` subscribes to all of them at once."""
        self._topics.append(topic)

    def listen(self) -> None:
        """Subscribe: all topics in one order."""
        self._bus.subscribe_many(tuple(dict.fromkeys(self._topics)), self._receive)

    def send(self, topic: str, **fields: Any) -> None:
        """Publish a message; MessageRejected where its fields do not fit."""
        waited_from_s = time.monotonic()
        while True:
            try:
                self._bus.publish(topic, **fields)
            except BrokerUnavailable as error:
                if self.closing.is_set():
                    log.warning("%s", error)
                    return
                # each try has waited for the bus's own send time-out
                waited_s = time.monotonic() - waited_from_s
                log.warning("the broker is away; %s waits %.0f s", topic, waited_s)
            else:
                return

    def latest(self, topic: str) -> Any | None:
        """The newest message of a topic that is subscribed to, if one came."""
        return self._collected.get(topic)

    def age_s(self, topic: str) -> float:
        """How long ago the newest message of a topic came; infinite if none did."""
        return time.monotonic() - self._received_s.get(topic, -math.inf)

    def run_callback(
        self, subscription: Any, topic: str, msg: Any, extra: Mapping[str, str]
    ) -> None:
        """Call a subscribed method; with the headers where it asks for them."""
        if subscription.options.get("include_headers"):
            subscription(msg, extra)
        else:
            subscription(msg)

    def _receive(self, message: Any, headers: Mapping[str, str]) -> None:
        topic = headers["topic"]
        # here, not in the loop: what waits there long is not fresh
        self._received_s[topic] = time.monotonic()
        self._loop.put(lambda: self.on_msg(topic, message, headers))
