"""Who has control: one operator at a time."""

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from em_platform.errors import ControlRefused


class Control:
    """The one who may act; kept alive by a heartbeat, given up or taken over.

    Times are Unix seconds. Safe to use from several threads.
    """

    def __init__(
        self,
        timeout_s: float,
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._changed = changed
        self._lock = threading.RLock()
        self._holder = ""
        self._token = ""
        self._since = 0.0
        self._seen_at = 0.0

    def take(self, name: str, *, take_over: bool = False) -> str:
        """Give control to `name`, and the token by which it is proven.

        Raises
        ------
        ControlRefused
            Another operator has it, and `take_over` was not asked for.
        """
        with self._lock:
            self.expire()
            if self._holder and not take_over:
                raise ControlRefused(
                    f"control: {self._holder} has it, it was expected to be free; ask "
                    "them to release it, or take it over",
                    holder=self._holder,
                )
            former, self._holder = self._holder, name
            self._token = secrets.token_urlsafe(24)
            self._since = self._seen_at = self._clock()
            self._changed(
                f"{name} took control over from {former}"
                if former
                else f"{name} has control"
            )
            return self._token

    def check(self, token: str) -> str:
        """The name of the holder that shows `token`; it counts as a heartbeat.

        Raises
        ------
        ControlRefused
            The token is not the holder's.
        """
        with self._lock:
            self.expire()
            if not self._holder:
                raise ControlRefused(
                    "control: it is free, and this needs it; take control first"
                )
            if not hmac.compare_digest(token.encode(), self._token.encode()):
                raise ControlRefused(
                    f"control: {self._holder} has it, this page has not; take control "
                    "first",
                    holder=self._holder,
                )
            self._seen_at = self._clock()
            return self._holder

    def release(self, token: str) -> None:
        """Give control up; ControlRefused where `token` does not hold it."""
        with self._lock:
            self._end(f"{self.check(token)} released control")

    def expire(self) -> None:
        """Take control from a holder whose page was silent for too long."""
        with self._lock:
            silent_s = self._clock() - self._seen_at
            if self._holder and silent_s > self._timeout_s:
                self._end(
                    f"{self._holder} lost control: their page was silent for "
                    f"{silent_s:.0f} s"
                )

    def shown(self) -> dict[str, Any]:
        """What all may know: the holder's name and since when, never the token."""
        with self._lock:
            return {"holder": self._holder, "since": self._since}

    def _end(self, sentence: str) -> None:
        self._holder = self._token = ""
        self._since = self._clock()
        self._changed(sentence)
