"""What waits to be written to one client of the broker, bounded."""

import asyncio
from collections import deque
from collections.abc import Callable

_WRITE_BYTES = 256 * 1024
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
