"""Messages that were sent and are not yet confirmed by the broker."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

_LIMIT = 5000
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
