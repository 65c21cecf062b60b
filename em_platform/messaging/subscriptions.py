"""Who gets a message: fan-out to all, or one of the competing consumers of a queue."""

import itertools
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Protocol

from em_platform.messaging.frames import escape, memory_of, write_head

AUTO, CLIENT, CLIENT_INDIVIDUAL = "auto", "client", "client-individual"
ACK_MODES = (AUTO, CLIENT, CLIENT_INDIVIDUAL)
_TOPIC, _QUEUE = "/topic/", "/queue/"
# Headers that mean something between one client and the broker only.
_NOT_PASSED_ON = frozenset(
    ("ack", "content-length", "destination", "message-id", "receipt", "redelivered")
) | {"subscription", "transaction"}


def is_queue(destination: str) -> bool:
    """Whether one consumer gets each message; otherwise all subscribers do."""
    return destination.startswith(_QUEUE)


class Receiver(Protocol):
    """One client, as far as deliveries need it."""

    version: str

    def is_free(self) -> bool:
        """Whether it takes a message of a queue now."""

    def deliver(self, head: bytes, body: bytes) -> None:
        """Give it one message."""


@dataclass(slots=True, eq=False)
class Message:
    """One message on its way through the broker."""

    number: int
    headers: dict[str, str]
    body: bytes
    redelivered: bool = False
    # by version: written once, however many clients get it
    heads: dict[str, bytes] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The `message-id` header."""
        return f"m{self.number}"

    @property
    def memory_bytes(self) -> int:
        """About what it takes while it is kept."""
        return memory_of(self.headers, self.body)

    def head(self, version: str) -> bytes:
        """The header lines that are the same for all clients of `version`."""
        if version not in self.heads:
            kept = {k: v for k, v in self.headers.items() if k not in _NOT_PASSED_ON}
            kept |= {"message-id": self.id, "content-length": str(len(self.body))}
            self.heads[version] = write_head(b"MESSAGE", kept, version)
        return self.heads[version]


@dataclass(slots=True, eq=False)
class Subscription:
    """One client's wish for one destination."""

    number: int
    receiver: Receiver
    id: str
    destination: str
    ack: str
    prefetch: int
    unacked: OrderedDict[str, Message] = field(default_factory=OrderedDict)
    _lines: bytes = b""

    def __post_init__(self) -> None:
        # Each client sees the destination as it subscribed to it: Pigeon looks for
        # its own prefix there.
        version = self.receiver.version
        lines = f"destination:{escape(self.destination, version)}\n"
        if self.id:
            lines += f"subscription:{escape(self.id, version)}\n"
        self._lines = lines.encode()

    def is_free(self) -> bool:
        """Whether it takes a message of a queue now."""
        return len(self.unacked) < self.prefetch and self.receiver.is_free()

    def give(self, message: Message) -> None:
        """Send one message of a fan-out."""
        lines = self._lines
        if self.ack != AUTO:
            lines += self._ack_line(message)  # an ACK is taken, and means nothing
        head = message.head(self.receiver.version)
        self.receiver.deliver(b"%b%b\n" % (head, lines), message.body)

    def hand_over(self, message: Message) -> None:
        """Send one message of a queue, which counts as taken when acknowledged."""
        lines = self._lines
        if self.ack != AUTO:
            self.unacked[message.id] = message
            lines += self._ack_line(message)
        if message.redelivered:
            lines += b"redelivered:true\n"
        head = message.head(self.receiver.version)
        self.receiver.deliver(b"%b%b\n" % (head, lines), message.body)

    def settle(self, message_id: str) -> list[Message]:
        """Take what an ACK or NACK of `message_id` means out of the unacked ones."""
        if message_id not in self.unacked:
            return []
        if self.ack == CLIENT_INDIVIDUAL:
            return [self.unacked.pop(message_id)]
        settled: list[Message] = []
        while not settled or settled[-1].id != message_id:
            settled.append(self.unacked.popitem(last=False)[1])
        return settled

    def _ack_line(self, message: Message) -> bytes:
        return f"ack:{self.number}.{message.id}\n".encode()


@dataclass(slots=True, eq=False)
class WorkQueue:
    """Messages that exactly one consumer shall take."""

    waiting: deque[Message] = field(default_factory=deque)
    consumers: deque[Subscription] = field(default_factory=deque)

    def pump(self) -> int:
        """Hand out what waits, in turn, to consumers that are free.

        Returns the bytes of what was handed out for good.
        """
        idle = released = 0
        while self.waiting and idle < len(self.consumers):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.is_free():
                message = self.waiting.popleft()
                consumer.hand_over(message)
                released += message.memory_bytes if consumer.ack == AUTO else 0
                idle = 0
            else:
                idle += 1
        return released

    def put_back(self, messages: list[Message]) -> None:
        """Let others have what was handed out and not acknowledged."""
        for message in reversed(messages):
            # in front and in their order, as if they had never been taken
            message.redelivered = True
            self.waiting.appendleft(message)


class Exchange:
    """All destinations of one broker.

    `/queue/x` has competing consumers; `x` and `/topic/x` are one fan-out, as for a
    Pigeon client with or without a prefix. `queued_bytes` are those of all messages of
    queues that wait or are not acknowledged.
    """

    def __init__(self) -> None:
        self.subscriptions = 0
        self.queued_bytes = 0
        self._numbers = itertools.count(1)
        self._topics: dict[str, dict[Subscription, None]] = {}
        self._queues: dict[str, WorkQueue] = {}

    def message(self, headers: dict[str, str], body: bytes) -> Message:
        """A new message with a number of its own."""
        return Message(next(self._numbers), headers, body)

    def add(self, subscription: Subscription) -> None:
        """Deliver to `subscription` from now on."""
        self.subscriptions += 1
        if is_queue(subscription.destination):
            queue = self._queue(subscription.destination)
            queue.consumers.append(subscription)
            self.queued_bytes -= queue.pump()
        else:
            name = subscription.destination.removeprefix(_TOPIC)
            self._topics.setdefault(name, {})[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        """Deliver no more; what it did not acknowledge goes to others."""
        self.subscriptions -= 1
        if is_queue(subscription.destination):
            queue = self._queue(subscription.destination)
            queue.consumers.remove(subscription)
            self.give_back(subscription, list(subscription.unacked.values()))
            subscription.unacked.clear()
            # names of queues may be without end, as those of replies are
            if not (queue.waiting or queue.consumers):
                del self._queues[subscription.destination]
        else:
            name = subscription.destination.removeprefix(_TOPIC)
            group = self._topics[name]
            del group[subscription]
            if not group:
                del self._topics[name]

    def publish(self, destination: str, message: Message) -> None:
        """Deliver one message to whom it concerns."""
        if is_queue(destination):
            queue = self._queue(destination)
            queue.waiting.append(message)
            self.queued_bytes += message.memory_bytes - queue.pump()
            return
        for subscription in self._topics.get(destination.removeprefix(_TOPIC), ()):
            subscription.give(message)

    def give_back(self, subscription: Subscription, messages: list[Message]) -> None:
        """Return messages of a queue to it."""
        queue = self._queue(subscription.destination)
        queue.put_back(messages)
        self.queued_bytes -= queue.pump()

    def release(self, subscription: Subscription, messages: list[Message]) -> None:
        """Forget messages of a queue that were acknowledged."""
        if is_queue(subscription.destination):
            self.queued_bytes -= sum(message.memory_bytes for message in messages)
        self.pump(subscription)

    def pump(self, subscription: Subscription) -> None:
        """A consumer became free."""
        if is_queue(subscription.destination):
            self.queued_bytes -= self._queue(subscription.destination).pump()

    @property
    def queues(self) -> int:
        """How many queues have messages or consumers."""
        return len(self._queues)

    def has_queue(self, destination: str) -> bool:
        """Whether a queue has messages or consumers."""
        return destination in self._queues

    def waiting(self, destination: str) -> int:
        """How many messages no consumer has taken."""
        queue = self._queues.get(destination)
        return len(queue.waiting) if queue else 0

    def all_waiting(self) -> int:
        """How many messages wait in all queues."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    def has_listeners(self, name: str) -> bool:
        """Whether any client gets the fan-out `name`."""
        return name in self._topics

    def _queue(self, destination: str) -> WorkQueue:
        return self._queues.setdefault(destination, WorkQueue())
