"""The message bus: publish, subscribe and wait over any STOMP broker."""

import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from em_platform.config import BrokerSettings
from em_platform.errors import MessageRejected, NoAnswer
from em_platform.messaging.link import Link
from em_platform.messaging.mailboxes import Handler, Inbox
from em_platform.messaging.topics import fitting, model_of


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
        self._settings = settings
        self._service = service
        self._send_timeout_s = send_timeout_s
        self._inbox = Inbox()
        self._link = Link(settings, service, inbox=self._inbox, settle_s=settle_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether a broker is there now."""
        return self._link.is_open

    @property
    def reconnects(self) -> int:
        """How often the connection was lost."""
        return self._link.reconnects

    @property
    def undelivered(self) -> int:
        """How many published messages the broker refused."""
        return self._link.undelivered

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
        self._link.open(None if timeout_s is None else time.monotonic() + timeout_s)

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
        # the broker would close the connection, and with it all that waits
        if len(body) > self._settings.frame_limit_mb * 1_000_000:
            raise MessageRejected(
                f"bus: a message for {topic} was not sent: it has {len(body)} bytes, "
                f"at most {self._settings.frame_limit_mb} MB fit a frame; "
                "send a smaller one or raise broker.frame_limit_mb",
                topic=topic,
            )
        deadline = time.monotonic() + self._send_timeout_s
        self._link.send(topic, body, deadline=deadline)

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Hand each message of `topic` to `handler(message, headers)` in its thread."""
        self.subscribe_many((topic,), handler)

    def subscribe_many(self, topics: Iterable[str], handler: Handler) -> None:
        """Hand the messages of all `topics` to one handler, in the order they came.

        Returns when the broker has taken it: what is sent from now on is received.
        """
        # before anything is subscribed: an unknown topic leaves nothing half done
        topics = tuple(topics)
        for topic in topics:
            model_of(topic)
        self._inbox.attach(topics, handler)
        self._link.listen(topics)

    def latest(self, topic: str) -> Any | None:
        """The newest message of `topic` since the first question for it, or None."""
        model_of(topic)
        self._link.listen((topic,))
        return self._inbox.latest(topic)

    def mark(self, *topics: str) -> int:
        """A moment, for `wait_for(..., since=mark)`; `topics` are received from now on.

        Name the answer's topic here, before the question is published: an answer that
        comes before its topic is subscribed to is lost.
        """
        for topic in topics:
            model_of(topic)
        self._link.listen(topics)
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
        model_of(topic)
        self._link.listen((topic,))
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
        outbox = self._link.outbox
        if not outbox.wait_until_empty(time.monotonic() + timeout_s):
            raise self._link.unavailable(f"{len(outbox)} messages are not confirmed")

    def close(self) -> None:
        """Send what is waiting, disconnect for good, end all threads."""
        self._link.close()
        self._inbox.close()
