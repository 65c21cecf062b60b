"""Messages that wait before they are tried again, in a queue `retry.NAME`.

The services of NAME send them back themselves, with the broker's confirmation. A queue
whose messages expire into another one forgets each as it sends it, and a broker that is
killed then loses it: 263 of 400 (RabbitMQ 3.10.8, measured).
"""

import math
import time
from dataclasses import dataclass
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel

from em_platform.cryoem.services.broker import (
    publish_body,
    put_to_dead_letters,
    retries_of,
    text_headers,
)
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

    def __init__(self, channel: BlockingChannel, queue: str, *, retry_s: float) -> None:
        self._channel = channel
        self._queue = queue
        self._retry_s = retry_s
        self._first: _Waiting | None = None
        """The oldest one. It is back in the queue when its service ends."""
        self._next_look_s = 0.0

    def pass_on(self) -> None:
        """Send back all that are due."""
        while first := self._first or self._look():
            self._first = first
            if first.due_s is None:
                put_to_dead_letters(
                    self._channel,
                    self._queue,
                    first.body,
                    headers=first.headers,
                    why=f"message: its header {DUE_HEADER} is no time, seconds were "
                    "expected; leave it out",
                )
            elif time.time() < first.due_s:
                return
            else:
                publish_body(
                    self._channel, self._queue, first.body, headers=first.headers
                )
            # A service that is killed here sends it once more, which changes nothing.
            self._channel.basic_ack(first.tag)
            self._first = None

    def _look(self) -> "_Waiting | None":
        if time.monotonic() < self._next_look_s:
            return None
        method, properties, body = self._channel.basic_get(retries_of(self._queue))
        if method is None:
            self._next_look_s = time.monotonic() + _LOOK_S
            return None
        raw = properties.headers or {}
        headers = text_headers(raw)
        headers.pop(DUE_HEADER, None)
        due_s = seconds_of(raw.get(DUE_HEADER, 0.0))
        if due_s is not None:
            # None waits longer than the settings say: all others wait behind it.
            due_s = min(due_s, time.time() + self._retry_s)
        return _Waiting(
            tag=method.delivery_tag, headers=headers, body=body, due_s=due_s
        )


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A message that waits."""

    tag: int
    headers: Headers
    body: bytes
    due_s: float | None
    """None: its header says no time."""


def seconds_of(value: Any) -> float | None:
    """A time since 1970 as a header says it; None where that is none."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
