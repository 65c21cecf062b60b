"""Inbox: received messages and their handlers. Outbox: sent and not yet confirmed."""

import logging
import queue
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from em_platform.errors import MessageRejected, is_own_fault
from em_platform.messaging.limits import sent_ms
from em_platform.messaging.pigeon import get_version
from em_platform.messaging.topics import model_of, read_body, reason, shortened
from em_platform.storage.own_faults import OwnFaults

_LIMIT = 5000  # unconfirmed messages: seconds of a fast session, a few MB
TRIES = 3
"""How often one message is sent before it counts as the broker's refusal."""


@dataclass(slots=True, eq=False)
class Pending:
    """One message on its way."""

    receipt: str
    topic: str
    body: str
    headers: dict[str, str]
    tries: int = field(default=0)


class Outbox:
    """Keeps what the broker has not confirmed, in the order of sending.

    A receipt also confirms everything sent before it (STOMP 1.2, "RECEIPT").
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._pending: OrderedDict[str, Pending] = OrderedDict()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, pending: Pending) -> None:
        """Remember one message that is about to be sent."""
        with self._changed:
            self._pending[pending.receipt] = pending

    def confirm(self, receipt: str) -> None:
        """Forget the message of `receipt` and all before it."""
        with self._changed:
            # Confirmed already, by the receipt of a later one.
            if receipt not in self._pending:
                return
            while self._pending.popitem(last=False)[0] != receipt:
                continue
            self._changed.notify_all()

    def drop(self, receipt: str) -> Pending | None:
        """Forget one message only, which is given back."""
        with self._changed:
            pending = self._pending.pop(receipt, None)
            self._changed.notify_all()
            return pending

    def pending(self) -> list[Pending]:
        """All that is not confirmed."""
        with self._changed:
            return list(self._pending.values())

    def wait_for_room(self, deadline: float) -> bool:
        """Whether less than the limit is unconfirmed before `deadline` (monotonic)."""
        return self._wait(self._limit - 1, deadline)

    def wait_until_empty(self, deadline: float) -> bool:
        """Whether everything is confirmed before `deadline` (monotonic)."""
        return self._wait(0, deadline)

    def _wait(self, most: int, deadline: float) -> bool:
        with self._changed:
            left_s = deadline - time.monotonic()
            return self._changed.wait_for(lambda: len(self._pending) <= most, left_s)


log = logging.getLogger(__name__)

Handler = Callable[[Any, Mapping[str, str]], None]

_KEPT_PER_TOPIC = 256  # for `wait_for(since=)`: an answer is never so far behind
_KEPT_BYTES_PER_TOPIC = 16_000_000  # pictures are large: 256 of them would be GB
# A handler that hangs must not eat the memory, neither by many messages nor by large.
_WAITING_PER_HANDLER, WAITING_BYTES = 100_000, 256_000_000
_LOGGED_REASONS = 1000  # each once; garbage with ever new reasons ends here


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message and when, in the order of arrival, it came."""

    number: int
    message: Any
    headers: Mapping[str, str]
    size: int


class _Kept(deque[Arrival]):
    """The newest messages of one topic: at most so many, and so many bytes."""

    size = 0

    def keep(self, arrival: Arrival) -> None:
        self.append(arrival)
        self.size += arrival.size
        # the newest stays, however large it is
        while len(self) > 1 and (
            len(self) > _KEPT_PER_TOPIC or self.size > _KEPT_BYTES_PER_TOPIC
        ):
            self.size -= self.popleft().size


class Inbox:
    """Reads bodies, keeps the newest of each topic, and feeds the handlers.

    A body that does not fit its topic is counted, logged once per sender and reason,
    and dropped.
    """

    def __init__(self) -> None:
        self.rejected = 0
        self.dropped = 0
        self._arrived = threading.Condition()
        self._number = 0
        self._kept: dict[str, _Kept] = defaultdict(_Kept)
        self._workers: dict[str, list[_Worker]] = defaultdict(list)
        self._logged: set[tuple[str, ...]] = set()

    @property
    def failed(self) -> int:
        """How many messages a handler could not deal with."""
        workers = {w for group in self._workers.values() for w in group}
        return sum(worker.failed for worker in workers)

    def attach(self, topics: tuple[str, ...], handler: Handler) -> None:
        """Hand every message of `topics` to `handler`, in order, in its own thread."""
        worker = _Worker(handler, "+".join(topics))
        for topic in topics:
            self._workers[topic].append(worker)
        worker.start()

    def take(self, topic: str, body: str, headers: Mapping[str, str]) -> None:
        """Read one body and hand it to all that wait for it."""
        try:
            message = read(topic, body, headers)
        except MessageRejected as error:
            self._reject(topic, headers, str(error))
            return
        # With the receiver's thread all topics would end, a stop included.
        except Exception as error:
            log.debug("bus: a message on %s failed", shortened(topic), exc_info=True)
            why = shortened(f"{type(error).__name__}: {error}")
            self._reject(
                topic,
                headers,
                f"bus: a message on {shortened(topic)} was dropped: reading it failed "
                f"({why}), it was expected to be read or refused; that is a fault of "
                "ours, report it",
            )
            return
        with self._arrived:
            self._number += 1
            arrival = Arrival(self._number, message, headers, len(body))
            self._kept[topic].keep(arrival)
            self._arrived.notify_all()
        for worker in self._workers.get(topic, ()):
            if not worker.offer(arrival):
                self.dropped += 1

    def mark(self) -> int:
        """A moment: `wait_for(since=...)` then accepts what arrived after it."""
        with self._arrived:
            return self._number

    def latest(self, topic: str) -> Any | None:
        """The newest message of `topic`, if one arrived."""
        with self._arrived:
            kept = self._kept.get(topic)
            return kept[-1].message if kept else None

    def wait_for(
        self,
        topic: str,
        accept: Callable[[Any], bool],
        *,
        timeout_s: float,
        since: int | None,
    ) -> Any | None:
        """The first acceptable message of `topic`; None when none came in time."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            if since is None:
                kept = self._kept.get(topic)
                # without a mark the newest counts: the question may come after it
                since = kept[-1].number - 1 if kept else self._number
            while True:
                for arrival in list(self._kept.get(topic, ())):
                    if arrival.number > since and accept(arrival.message):
                        return arrival.message
                since = self._number  # what `accept` has seen it is not asked again
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._arrived.wait(left_s):
                    return None

    def close(self) -> None:
        """Let the handlers finish what they have begun, and end their threads."""
        for worker in {w for group in self._workers.values() for w in group}:
            worker.stop()

    def _reject(self, topic: str, headers: Mapping[str, str], sentence: str) -> None:
        self.rejected += 1
        key = (topic, headers.get("service", ""), sentence)
        if key not in self._logged and len(self._logged) < _LOGGED_REASONS:
            self._logged.add(key)
            log.warning("%s", sentence)


def read(topic: str, body: str, headers: Mapping[str, str]) -> BaseModel:
    """The message that `body` is, or MessageRejected with the reason.

    Raises
    ------
    MessageRejected
        Unknown topic, not JSON, missing or unknown field, a value or a time of sending
        beyond the limits, newer major version.
    """
    model = model_of(topic)
    sender = shortened(headers.get("source") or "an unnamed sender")
    # a version is short; what is no version must not fill the log
    theirs = shortened(headers.get("version", "unknown")[:40])
    ours = get_version(model)
    who = f"bus: a message on {topic} from {sender} was dropped"
    # a newer minor version only adds what may be left out
    if (major := _major(theirs)) is not None and major > (_major(ours) or 0):
        raise MessageRejected(
            f"{who}: its version is {theirs}, at most {ours} can be read; "
            f"update the package that defines {topic} here",
            topic=topic,
        )
    # real devices need not send the header
    if headers.get("sent_at") and sent_ms(headers) is None:
        raise MessageRejected(
            f"{who}: its header sent_at is {shortened(headers['sent_at'])}, expected "
            "milliseconds since 1970; correct the sender",
            topic=topic,
        )
    try:
        # without a version of the sender the fields decide
        return read_body(topic, body)
    except ValidationError as error:
        raise MessageRejected(
            f"{who}: {reason(error)}; its version is {theirs}, ours {ours}; "
            "correct the sender or bring both to one version",
            topic=topic,
        ) from error


def _major(version: str) -> int | None:
    first = version.partition(".")[0]
    # "²" is a digit, and no number to int()
    return int(first) if first.isascii() and first.isdigit() else None


class _Worker(threading.Thread):
    """One handler and the messages that wait for it."""

    def __init__(self, handler: Handler, name: str) -> None:
        super().__init__(name=f"bus {name}", daemon=True)
        self.failed = 0
        self._handler = handler
        self._waiting: queue.Queue[Arrival | None] = queue.Queue(_WAITING_PER_HANDLER)
        self._offered = self._done = 0  # bytes; each is counted by one thread only
        self._stopping = threading.Event()
        first, _, more = name.partition("+")
        self._faults = OwnFaults(f"handler of {first}{' and others' if more else ''}")

    def offer(self, arrival: Arrival) -> bool:
        waiting = self._offered - self._done
        if waiting and waiting + arrival.size > WAITING_BYTES:
            return False
        try:
            self._waiting.put_nowait(arrival)
        except queue.Full:
            return False
        self._offered += arrival.size
        return True

    def run(self) -> None:
        while (arrival := self._waiting.get()) is not None:
            while not self._is_handled(arrival):
                continue
            self._done += arrival.size

    def stop(self) -> None:
        """End after what is waiting; a handler that stops the bus is not waited for."""
        self._stopping.set()
        self._waiting.put(None)
        if threading.current_thread() is not self:
            self.join(timeout=2.0)  # a handler that hangs must not hold the end

    def _is_handled(self, arrival: Arrival) -> bool:
        """Hand a message over; False where this computer fails, and it comes again."""
        try:
            self._handler(arrival.message, arrival.headers)
        except Exception as error:  # must not end the messages after it
            if is_own_fault(error):
                return self._stopping.wait(self._faults.pause_s(error))
            self.failed += 1
            log.exception(
                "bus: a handler of %s failed on %s", self.name, arrival.message
            )
        self._faults.over()
        return True
