"""The message bus: publish, subscribe and wait over any STOMP broker."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from em_platform.config import BrokerSettings
from em_platform.errors import BrokerUnavailable, MessageRejected, NoAnswer
from em_platform.messaging.connection import Connection, Events, fitting, model_of
from em_platform.messaging.inbox import Handler, Inbox
from em_platform.messaging.outbox import TRIES, Letter, Outbox

log = logging.getLogger(__name__)

_RETRY_S = 0.25


class Bus:
    """Pigeon messages that survive a broker's outage.

    - A message is kept until the broker confirms it, and sent again after an outage:
      at least once, so a handler must not mind the same message twice.
    - A lost connection is opened again and its subscriptions are made again. Messages
      are held for `settle_s` then, until the other clients have returned too.
    - Handlers run in threads of their own and never hold up the receiver.
    - A malformed or newer message is counted in `rejected`, logged and dropped.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        service: str,
        *,
        send_timeout_s: float = 10.0,
        settle_s: float = 1.5,
    ) -> None:
        self.reconnects = 0
        self.undelivered = 0
        self._settings = settings
        self._service = service
        self._send_timeout_s = send_timeout_s
        self._settle_s = settle_s
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._receipts = itertools.count(1)
        self._topics: dict[str, None] = {}
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._connection: Connection | None = None
        self._failure: BrokerUnavailable | None = None
        self._closing = threading.Event()
        self._keeper = threading.Thread(
            target=self._keep, name=f"bus {service}", daemon=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether a broker is there now."""
        return self._connection is not None

    @property
    def rejected(self) -> int:
        """How many received messages did not fit their topic."""
        return self._inbox.rejected

    @property
    def dropped(self) -> int:
        """How many received messages a handler was too slow for."""
        return self._inbox.dropped

    @property
    def failed(self) -> int:
        """How many received messages a handler raised an error on."""
        return self._inbox.failed

    def connect(self, timeout_s: float | None = 10.0) -> None:
        """Wait until the broker has taken the login; may be called again.

        Raises
        ------
        BrokerUnavailable
            No broker answered in time (None: wait for ever), or it refused the login.
        """
        if self._keeper.ident is None:
            self._keeper.start()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while self._connection is None:
                if self._failure is not None and self._failure.facts.get("refused"):
                    raise self._failure
                left_s = None if deadline is None else deadline - time.monotonic()
                if (left_s is not None and left_s <= 0) or self._closing.is_set():
                    raise self._failure or self._no_answer("connect")
                self._changed.wait(left_s)

    def publish(self, topic: str, **fields: Any) -> None:
        """Send one message; while the broker is away, wait for the send timeout.

        Raises
        ------
        MessageRejected
            The fields do not fit the topic, or the message is too large.
        BrokerUnavailable
            The broker did not come back in time; the message will not be sent.
        """
        body = fitting(topic, fields).model_dump_json()
        if len(body) > self._settings.frame_limit_mb * 1_000_000:
            raise MessageRejected(
                f"bus: a message for {topic} was not sent: it has {len(body)} bytes, "
                f"at most {self._settings.frame_limit_mb} MB fit a frame; "
                "send a smaller one or raise broker.frame_limit_mb",
                topic=topic,
            )
        deadline = time.monotonic() + self._send_timeout_s
        while not self._try_to_send(topic, body, deadline):
            continue

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Hand each message of `topic` to `handler(message, headers)` in its thread."""
        self.subscribe_many((topic,), handler)

    def subscribe_many(self, topics: Iterable[str], handler: Handler) -> None:
        """Hand the messages of all `topics` to one handler, in the order they came."""
        topics = tuple(topics)
        for topic in topics:
            model_of(topic)
        self._inbox.attach(topics, handler)
        for topic in topics:
            self._listen(topic)

    def latest(self, topic: str) -> Any | None:
        """The newest message of `topic` since the first question for it, or None."""
        self._listen(topic)
        return self._inbox.latest(topic)

    def mark(self) -> int:
        """A moment, for `wait_for(..., since=mark)`."""
        return self._inbox.mark()

    def wait_for(
        self,
        topic: str,
        accept: Callable[[Any], bool],
        timeout_s: float,
        *,
        since: int | None = None,
    ) -> Any:
        """The first message of `topic` that `accept` takes: the newest, or a later one.

        With `since` (a `mark`) each of the last 256 that came after it counts, and
        none from before.

        Raises
        ------
        NoAnswer
            None came within `timeout_s`.
        """
        self._listen(topic)
        found = self._inbox.wait_for(topic, accept, timeout_s=timeout_s, since=since)
        if found is None:
            raise NoAnswer(
                f"bus: {self._service} waited {timeout_s:g} s for {topic}: no message "
                "that answers came; see that its sender runs",
                topic=topic,
            )
        return found

    def flush(self, timeout_s: float = 10.0) -> None:
        """Wait until the broker has confirmed all that was published.

        Raises
        ------
        BrokerUnavailable
            It did not within `timeout_s`; what remains is sent when it is back.
        """
        if not self._outbox.wait_until_empty(time.monotonic() + timeout_s):
            raise self._no_answer(f"{len(self._outbox)} messages are not confirmed")

    def close(self) -> None:
        """Send what is waiting, disconnect for good, end all threads."""
        if self._connection is not None:
            self._outbox.wait_until_empty(time.monotonic() + 2.0)
        self._closing.set()
        with self._changed:
            connection, self._connection = self._connection, None
            self._changed.notify_all()
        if connection is not None:
            connection.close()
        if self._keeper.ident is not None:
            self._keeper.join(timeout=10.0)
        self._inbox.close()
        if len(self._outbox):
            log.warning("bus: closed with %d messages unconfirmed", len(self._outbox))

    def _listen(self, topic: str) -> None:
        model_of(topic)
        with self._changed:
            if topic in self._topics:
                return
            self._topics[topic] = None
            connection = self._connection
        if connection is not None:
            self._listen_on(connection, topic)

    def _listen_on(self, connection: Connection, topic: str) -> None:
        try:
            connection.listen(topic)
        except BrokerUnavailable:
            log.debug("bus: %s is subscribed when the broker is back", topic)

    def _try_to_send(self, topic: str, body: str, deadline: float) -> bool:
        """Send once over the present connection; False when that has just gone."""
        connection = self._connection_before(deadline)
        if not self._outbox.wait_for_room(deadline):
            raise self._no_answer(f"{len(self._outbox)} messages are not confirmed")
        if not self._sending.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise self._no_answer("it takes no more messages")
        try:
            if self._connection is not connection:
                return False
            receipt = str(next(self._receipts))
            headers = {**connection.headers(topic), "receipt": receipt}
            letter = Letter(receipt, topic, body, headers)
            return self._hand_over(connection, letter)
        finally:
            self._sending.release()

    def _hand_over(self, connection: Connection, letter: Letter) -> bool:
        self._outbox.add(letter)
        letter.tries += 1
        try:
            # A copy: stomp.py writes into the headers that it is given.
            connection.transmit(letter.topic, letter.body, dict(letter.headers))
        except BrokerUnavailable:
            connection.lost.set()
            self._outbox.drop(letter.receipt)
            self._forget(connection)
            return False
        return True

    def _connection_before(self, deadline: float) -> Connection:
        with self._changed:
            while self._connection is None:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._closing.is_set():
                    raise self._no_answer("no connection")
                self._changed.wait(left_s)
            return self._connection

    def _keep(self) -> None:
        """Keep a connection until the bus is closed."""
        while not self._closing.is_set():
            connection = self._open()
            if connection is None:
                self._closing.wait(_RETRY_S)
                continue
            if not self._restore(connection):
                connection.close()
                continue
            connection.lost.wait()
            self._forget(connection)
            if not self._closing.is_set():
                log.warning("bus: %s was lost; connecting again", connection.address)
                connection.close()
                self.reconnects += 1

    def _open(self) -> Connection | None:
        events = Events(
            message=self._inbox.take,
            receipt=self._outbox.confirm,
            refused=self._refused,
        )
        connection = Connection(self._settings, self._service, events=events)
        try:
            connection.open()
        except BrokerUnavailable as error:
            with self._changed:
                if str(error) != str(self._failure):
                    log.warning("%s", error)
                self._failure = error
                self._changed.notify_all()
            return None
        return connection

    def _restore(self, connection: Connection) -> bool:
        """Subscribe again, let the others return, send again; whether it is usable."""
        with self._changed:
            topics = list(self._topics)
        for topic in topics:
            self._listen_on(connection, topic)
        if self.reconnects and connection.lost.wait(self._settle_s):
            return False
        with self._sending:
            if not all(self._send_again(connection, x) for x in self._outbox.letters()):
                return False
            with self._changed:
                if self._closing.is_set() or connection.lost.is_set():
                    return False
                self._connection, self._failure = connection, None
                late = [topic for topic in self._topics if topic not in topics]
                self._changed.notify_all()
        for topic in late:
            self._listen_on(connection, topic)
        log.info("bus: %s connected to %s", self._service, connection.address)
        return True

    def _send_again(self, connection: Connection, letter: Letter) -> bool:
        if letter.tries >= TRIES:
            self._refused(letter.receipt, f"no receipt after {TRIES} tries")
            return True
        letter.tries += 1
        try:
            connection.transmit(letter.topic, letter.body, dict(letter.headers))
        except BrokerUnavailable:
            return False
        return True

    def _forget(self, connection: Connection) -> None:
        with self._changed:
            if self._connection is connection:
                self._connection = None
                self._changed.notify_all()

    def _refused(self, receipt: str, sentence: str) -> None:
        letter = self._outbox.drop(receipt)
        if letter is not None:
            self.undelivered += 1
        what = f"a message on {letter.topic}" if letter else "a frame"
        log.error("bus: the broker refused %s of %s: %s", what, self._service, sentence)

    def _no_answer(self, what: str) -> BrokerUnavailable:
        address = f"{self._settings.host}:{self._settings.port}"
        return BrokerUnavailable(
            f"bus: {address} did not serve {self._service} in time ({what}), a STOMP "
            "broker was expected; start it or correct broker.host and broker.port",
            address=address,
        )
