"""What one client of the broker asks for, and what waits to be written to it."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable

from em_platform.messaging.frames import Counters, Frame, FrameError, Rules
from em_platform.messaging.subscriptions import (
    ACK_MODES,
    AUTO,
    Exchange,
    Message,
    Receiver,
    Subscription,
    is_queue,
)

_WRITE_BYTES = 256 * 1024  # joined for one write: few system calls, little copying
# Above it asyncio pauses us: what a client has not read waits in our queue, where the
# oldest can be dropped, and not in the transport, where nothing can.
_HIGH_WATER_BYTES = 1024 * 1024


class ClientQueue:
    """Frames for one client, in order; above the limits the oldest messages are lost.

    Answers to the client (receipts, errors) are never dropped and go first.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self.dropped = 0
        self.delivered = 0
        self.written_at = 0.0
        self.paused = False
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._answers: deque[bytes] = deque()
        self._messages: deque[tuple[bytes, bytes]] = deque()
        self._bytes = 0
        self._transport: asyncio.Transport | None = None
        self._clock: Callable[[], float] = lambda: 0.0

    def open(self, transport: asyncio.Transport, clock: Callable[[], float]) -> None:
        """Write to `transport` from now on."""
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._transport, self._clock = transport, clock
        self.written_at = clock()

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_stuck(self) -> bool:
        """Whether the client does not even read the answers to its own frames."""
        return len(self._answers) > self._limit

    def answer(self, frame: bytes) -> None:
        """Add one frame that must arrive."""
        self._answers.append(frame)

    def message(self, head: bytes, body: bytes) -> None:
        """Add one message; `body` is shared between all clients that get it."""
        self._messages.append((head, body))
        self._bytes += len(head) + len(body) + 1
        while len(self._messages) > self._limit or self._bytes > self._limit_bytes:
            if len(self._messages) == 1:
                break  # a single large one is allowed
            head, body = self._messages.popleft()
            self._bytes -= len(head) + len(body) + 1
            self.dropped += 1

    def flush(self) -> None:
        """Write as much as the client takes."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while not self.paused and (self._answers or self._messages):
            transport.write(b"".join(self._next_parts()))
            self.written_at = self._clock()

    def beat(self) -> None:
        """Write a heart-beat; bytes that wait already are one."""
        if self._transport is not None and not self.paused:
            self._transport.write(b"\n")
            self.written_at = self._clock()

    def _next_parts(self) -> list[bytes]:
        parts = list(self._answers)
        self._answers.clear()
        size = 0
        while self._messages and size < _WRITE_BYTES:
            head, body = self._messages.popleft()
            parts += (head, body, b"\0")
            size += len(head) + len(body) + 1
            self.delivered += 1
        self._bytes -= size
        return parts


_DEFAULT_PREFETCH = 100  # unacknowledged messages a consumer gets, so that others share
# A message costs the broker's one thread some 20 us for each subscription. There are
# less than a hundred topics, and a client subscribes to each once.
_CLIENT_SUBSCRIPTIONS = 200
_SUBSCRIPTIONS = 10_000
_QUEUES = 1000  # no service of ours uses any; a few for those that do
_TRANSACTIONS = 100  # open ones of a client: a thread has one at a time
_NAME_LIMIT = 1000  # characters of a name that is kept: destination, id, transaction
_IN_TRANSACTION = frozenset((b"SEND", b"ACK", b"NACK"))


class Commands:
    """Carries out the frames of one client that has logged in.

    Every method that cannot raises FrameError with the sentence for the ERROR frame.
    """

    def __init__(
        self,
        receiver: Receiver,
        exchange: Exchange,
        *,
        rules: Rules,
        counters: Counters,
    ) -> None:
        self._receiver = receiver
        self._exchange = exchange
        self._rules = rules
        self._counters = counters
        self._subscriptions: dict[str, Subscription] = {}
        self._numbers = itertools.count(1)
        self._transactions: dict[str, list[Frame]] = {}
        self._postponed = 0  # frames of all transactions
        self._postponed_bytes = 0
        self._acts: dict[bytes, Callable[[Frame], None]] = {
            b"ABORT": self._abort,
            b"ACK": self._ack,
            b"BEGIN": self._begin,
            b"COMMIT": self._commit,
            b"NACK": self._nack,
            b"SEND": self._send,
            b"SUBSCRIBE": self._subscribe,
            b"UNSUBSCRIBE": self._unsubscribe,
        }

    def apply(self, frame: Frame) -> None:
        """Do what `frame` asks for, or postpone it to the end of its transaction."""
        act = self._acts.get(frame.command)
        if act is None:
            raise refusal(frame, f"{frame.command.decode()} does not belong here")
        transaction = frame.headers.get("transaction")
        if transaction is not None and frame.command in _IN_TRANSACTION:
            self._postpone(frame, transaction)
        else:
            act(frame)

    def pump(self) -> None:
        """Take what waits in queues: the client is free again."""
        for subscription in self._subscriptions.values():
            self._exchange.pump(subscription)

    def leave(self) -> None:
        """Forget transactions and subscriptions; others get what was unacknowledged."""
        while self._transactions:
            self._forget(self._transactions.popitem()[1])
        while self._subscriptions:
            _, subscription = self._subscriptions.popitem()
            self._exchange.remove(subscription)

    def _send(self, frame: Frame) -> None:
        destination = _needed(frame, "destination")
        self._check_queue(frame, destination)
        self._counters.received += 1
        message = self._exchange.message(frame.headers, frame.body)
        self._exchange.publish(destination, message)

    def _subscribe(self, frame: Frame) -> None:
        destination = _needed(frame, "destination")
        # STOMP 1.0 asks for no id: the destination names the subscription then.
        name = name_of(frame, "id")
        if not name and self._receiver.version != "1.0":
            raise refusal(frame, "SUBSCRIBE needs an id")
        ack = frame.headers.get("ack", AUTO)
        if ack not in ACK_MODES:
            raise refusal(frame, f"ack {ack[:40]!r} is none of {', '.join(ACK_MODES)}")
        key = name or destination
        if key in self._subscriptions:
            raise refusal(frame, f"there is a subscription {key[:80]} already")
        self._check_subscriptions(frame, destination)
        # RabbitMQ's header; no version of STOMP has one.
        prefetch = frame.headers.get("prefetch-count", "")
        subscription = Subscription(
            next(self._numbers),
            self._receiver,
            name,
            destination,
            ack,
            # 9 digits: of some thousand int() raises an error (Python 3.11).
            max(1, int(prefetch[:9])) if prefetch.isdecimal() else _DEFAULT_PREFETCH,
        )
        self._subscriptions[key] = subscription
        self._exchange.add(subscription)

    def _unsubscribe(self, frame: Frame) -> None:
        key = frame.headers.get("id") or _needed(frame, "destination")
        subscription = self._subscriptions.pop(key, None)
        if subscription is None:
            raise refusal(frame, f"there is no subscription {key[:80]}")
        self._exchange.remove(subscription)

    def _ack(self, frame: Frame) -> None:
        subscription, messages = self._settled(frame)
        if subscription is not None and messages:
            self._exchange.release(subscription, messages)

    def _nack(self, frame: Frame) -> None:
        subscription, messages = self._settled(frame)
        if subscription is not None and messages:
            self._exchange.give_back(subscription, messages)

    def _settled(self, frame: Frame) -> tuple[Subscription | None, list[Message]]:
        """The subscription an ACK or NACK is about, and the messages it settles.

        1.2 names our `ack` header, 1.1 message and subscription, 1.0 the message.
        """
        number, _, message_id = frame.headers.get("id", "").partition(".")
        if not message_id:
            number, message_id = "", _needed(frame, "message-id")
        named = frame.headers.get("subscription")
        for key, subscription in self._subscriptions.items():
            if number and str(subscription.number) != number:
                continue
            if not number and named not in (None, key):
                continue
            if message_id in subscription.unacked:
                return subscription, subscription.settle(message_id)
        return None, []

    def _begin(self, frame: Frame) -> None:
        transaction = _needed(frame, "transaction")
        if transaction in self._transactions:
            raise refusal(frame, f"transaction {transaction[:80]} has begun already")
        if len(self._transactions) >= _TRANSACTIONS:
            raise refusal(
                frame,
                f"{_TRANSACTIONS} transactions of this client are open already; "
                "end one with COMMIT or ABORT",
            )
        self._transactions[transaction] = []

    def _commit(self, frame: Frame) -> None:
        for postponed in self._take_transaction(frame):
            self._acts[postponed.command](postponed)

    def _abort(self, frame: Frame) -> None:
        self._take_transaction(frame)

    def _take_transaction(self, frame: Frame) -> list[Frame]:
        transaction = _needed(frame, "transaction")
        if transaction not in self._transactions:
            raise refusal(frame, f"transaction {transaction[:80]} has not begun")
        frames = self._transactions.pop(transaction)
        self._forget(frames)
        return frames

    def _forget(self, frames: list[Frame]) -> None:
        """Count `frames` no more as those of a transaction."""
        size = sum(frame.memory_bytes for frame in frames)
        self._postponed -= len(frames)
        self._postponed_bytes -= size
        self._counters.postponed_bytes -= size

    def _postpone(self, frame: Frame, transaction: str) -> None:
        if transaction not in self._transactions:
            raise refusal(frame, f"transaction {transaction[:80]} has not begun")
        # Of all transactions: until COMMIT they lie in the broker's memory.
        rules, size = self._rules, frame.memory_bytes
        if (
            self._postponed >= rules.queue_limit
            or self._postponed_bytes + size > rules.frame_limit_bytes
            or self._counters.postponed_bytes + size > rules.kept_bytes
        ):
            raise refusal(frame, f"transaction {transaction[:80]} became too large")
        self._transactions[transaction].append(frame)
        self._postponed += 1
        self._postponed_bytes += size
        self._counters.postponed_bytes += size

    def _check_queue(self, frame: Frame, destination: str) -> None:
        """Refuse `frame` where its queue can take no message."""
        exchange, rules = self._exchange, self._rules
        if not is_queue(destination):
            return  # a topic keeps nothing
        if exchange.waiting(destination) >= (limit := rules.work_queue_limit):
            raise refusal(frame, f"{limit} messages wait in {destination[:80]} already")
        self._check_new_queue(frame, destination)
        if exchange.queued_bytes + frame.memory_bytes > rules.kept_bytes:
            raise refusal(
                frame,
                f"{exchange.queued_bytes} bytes wait in queues already, at most "
                f"{rules.kept_bytes} are kept; have them consumed and acknowledged",
            )

    def _check_subscriptions(self, frame: Frame, destination: str) -> None:
        """Refuse `frame` where there are too many subscriptions already."""
        if len(self._subscriptions) >= _CLIENT_SUBSCRIPTIONS:
            raise refusal(
                frame,
                f"this client has {_CLIENT_SUBSCRIPTIONS} subscriptions already, "
                "each message costs time for each; subscribe to each topic once",
            )
        if self._exchange.subscriptions >= _SUBSCRIPTIONS:
            raise refusal(frame, f"there are {_SUBSCRIPTIONS} subscriptions already")
        if is_queue(destination):
            self._check_new_queue(frame, destination)

    def _check_new_queue(self, frame: Frame, destination: str) -> None:
        exchange = self._exchange
        if exchange.queues >= _QUEUES and not exchange.has_queue(destination):
            raise refusal(frame, f"there are {_QUEUES} queues already; use one of them")


def refusal(frame: Frame, sentence: str) -> FrameError:
    """The error that answers `frame`."""
    return FrameError(sentence, receipt=frame.headers.get("receipt", ""))


def _needed(frame: Frame, name: str) -> str:
    value = name_of(frame, name)
    if not value:
        raise refusal(frame, f"{frame.command.decode()} needs a header {name}")
    return value


def name_of(frame: Frame, header: str) -> str:
    """The value of a header that is kept, empty where it is missing."""
    value = frame.headers.get(header, "")
    if len(value) > _NAME_LIMIT:
        raise refusal(
            frame,
            f"header {header} has {len(value)} characters, at most {_NAME_LIMIT} are "
            "taken; choose a shorter name",
        )
    return value
