"""A link to a broker that is opened again whenever it is lost."""

import itertools
import logging
import threading
import time
from collections.abc import Iterable

from em_platform.config import BrokerSettings
from em_platform.errors import BrokerUnavailable
from em_platform.messaging.connection import Connection, Events
from em_platform.messaging.mailboxes import TRIES, Inbox, Outbox, Pending

log = logging.getLogger(__name__)

_RETRY_S = 0.25  # a broker that was started again is back in use within a tile's time
_FLUSH_S = 2.0  # for receipts at the end; a dead broker must not hold the process


class Link:
    """Keeps one connection open, with its subscriptions and unconfirmed messages.

    A thread of its own connects, and after a loss connects anew, subscribes anew, waits
    `settle_s` until the other clients have returned, and sends again what the broker
    had not confirmed.
    """

    def __init__(
        self, settings: BrokerSettings, service: str, *, inbox: Inbox, settle_s: float
    ) -> None:
        self.reconnects = 0
        self.undelivered = 0
        self.outbox = Outbox()
        self._settings = settings
        self._service = service
        self._inbox = inbox
        self._settle_s = settle_s
        self._receipts = itertools.count(1)
        self._topics: dict[str, None] = {}
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._connection: Connection | None = None
        self._failure: BrokerUnavailable | None = None
        self._closing = threading.Event()
        self._keeper = threading.Thread(
            target=self._keep, name=f"link {service}", daemon=True
        )

    @property
    def is_open(self) -> bool:
        """Whether a broker is there now."""
        return self._connection is not None

    def open(self, deadline: float | None) -> None:
        """Wait until the broker has taken the login; BrokerUnavailable if it did not.

        `deadline` is monotonic, None waits for ever. A refused login is raised at once.
        """
        if self._keeper.ident is None:
            self._keeper.start()
        with self._changed:
            while self._connection is None:
                # to try again with the same password would be refused again
                if self._failure is not None and self._failure.facts["refused"]:
                    raise self._failure
                left_s = None if deadline is None else deadline - time.monotonic()
                if (left_s is not None and left_s <= 0) or self._closing.is_set():
                    raise self._failure or self.unavailable("no connection")
                self._changed.wait(left_s)

    def listen(self, topics: Iterable[str]) -> None:
        """Subscribe to `topics`, now and after each loss.

        Returns when the broker has taken it: from then on no message is missed.
        """
        with self._changed:
            new = [topic for topic in topics if topic not in self._topics]
            self._topics |= dict.fromkeys(new)
            connection = self._connection
        if connection is not None and new:
            _listen_on(connection, new)

    def send(self, topic: str, body: str, *, deadline: float) -> None:
        """Send one body; BrokerUnavailable when no broker comes before `deadline`."""
        while not self._try_to_send(topic, body, deadline):
            continue

    def close(self) -> None:
        """Wait shortly for what is unconfirmed, and disconnect for good."""
        if self._connection is not None:
            self.outbox.wait_until_empty(time.monotonic() + _FLUSH_S)
        self._closing.set()
        with self._changed:
            connection, self._connection = self._connection, None
            self._changed.notify_all()
        if connection is not None:
            connection.close()
        if self._keeper.ident is not None:
            self._keeper.join(timeout=10.0)  # longer than one try to connect, of 5 s
        if len(self.outbox):
            log.warning("bus: closed with %d messages unconfirmed", len(self.outbox))

    def unavailable(self, what: str) -> BrokerUnavailable:
        """The error for a broker that did not serve in time."""
        address = f"{self._settings.host}:{self._settings.port}"
        return BrokerUnavailable(
            f"bus: {address} did not serve {self._service} in time ({what}), a STOMP "
            "broker was expected; start it or correct broker.host and broker.port",
            address=address,
            refused=False,
        )

    def _try_to_send(self, topic: str, body: str, deadline: float) -> bool:
        """Send once over the present connection; False when that has just gone."""
        connection = self._connection_before(deadline)
        if not self.outbox.wait_for_room(deadline):
            raise self.unavailable(f"{len(self.outbox)} messages are not confirmed")
        if not self._sending.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise self.unavailable("it takes no more messages")
        try:
            # it was lost while this thread waited for its turn
            if self._connection is not connection:
                return False
            receipt = str(next(self._receipts))
            headers = connection.headers(topic)
            # Brokers keep the receipt; `sequence` identifies the message for receivers.
            headers |= {"receipt": receipt, "sequence": receipt}
            pending = Pending(receipt, topic, body, headers)
            # Before it is sent: the receipt may come before `_transmit` returns.
            self.outbox.add(pending)
            if _transmit(connection, pending):
                return True
            self.outbox.drop(receipt)
            self._forget(connection)
            connection.lost.set()
            return False
        finally:
            self._sending.release()

    def _connection_before(self, deadline: float) -> Connection:
        with self._changed:
            while self._connection is None:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._closing.is_set():
                    raise self.unavailable("no connection")
                self._changed.wait(left_s)
            return self._connection

    def _keep(self) -> None:
        """Keep a connection until the link is closed."""
        while not self._closing.is_set():
            connection = self._open_connection()
            if connection is None:
                self._closing.wait(_RETRY_S)
                continue
            if self._restore(connection):
                connection.lost.wait()
            if not self._closing.is_set():
                log.warning("bus: %s was lost; connecting again", connection.address)
                self._forget(connection)
                self.reconnects += 1
            connection.close()

    def _open_connection(self) -> Connection | None:
        events = Events(
            message=self._inbox.take,
            receipt=self.outbox.confirm,
            refused=self._refused,
        )
        connection = Connection(self._settings, self._service, events=events)
        try:
            connection.open()
        except BrokerUnavailable as error:
            with self._changed:
                # four tries a second: the same reason is logged once
                if str(error) != str(self._failure):
                    log.warning("%s", error)
                self._failure = error
                self._changed.notify_all()
            return None
        return connection

    def _restore(self, connection: Connection) -> bool:
        """Subscribe, let the others return, send again; whether it is usable then."""
        with self._changed:
            topics = list(self._topics)
        _listen_on(connection, topics)
        # What is sent now reaches only who has subscribed again already.
        if self.reconnects and connection.lost.wait(self._settle_s):
            return False
        # Nobody sends anew until what was unconfirmed has gone: the order stays.
        with self._sending:
            if not all(self._send_again(connection, x) for x in self.outbox.pending()):
                return False
            with self._changed:
                if self._closing.is_set() or connection.lost.is_set():
                    return False
                self._connection, self._failure = connection, None
                # subscribed to by another thread while this one restored
                late = [topic for topic in self._topics if topic not in topics]
                self._changed.notify_all()
        _listen_on(connection, late)
        log.info("bus: %s connected to %s", self._service, connection.address)
        return True

    def _send_again(self, connection: Connection, pending: Pending) -> bool:
        if pending.tries >= TRIES:
            self._refused(pending.receipt, f"no receipt after {TRIES} tries")
            return True
        return _transmit(connection, pending)

    def _forget(self, connection: Connection) -> None:
        with self._changed:
            if self._connection is connection:
                self._connection = None
                self._changed.notify_all()

    def _refused(self, receipt: str, sentence: str) -> None:
        pending = self.outbox.drop(receipt)
        if pending is not None:
            self.undelivered += 1
        what = f"a message on {pending.topic}" if pending else "a frame"
        log.error("bus: the broker refused %s of %s: %s", what, self._service, sentence)


def _transmit(connection: Connection, pending: Pending) -> bool:
    pending.tries += 1
    try:
        # A copy: stomp.py writes into the headers that it is given.
        connection.transmit(pending.topic, pending.body, dict(pending.headers))
    except BrokerUnavailable:
        return False
    return True


def _listen_on(connection: Connection, topics: Iterable[str]) -> None:
    try:
        for topic in topics:
            connection.listen(topic)
    except BrokerUnavailable:
        log.debug("bus: the rest is subscribed when the broker is back")
        return
    if not connection.wait_until_listening() and not connection.lost.is_set():
        log.warning("bus: %s did not confirm a subscription", connection.address)
