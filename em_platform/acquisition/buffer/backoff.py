"""When something that failed is tried again: later and later, at no fixed moment."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from em_platform.config import BufferSettings


@dataclass(slots=True)
class _Failures:
    """How often in a row, and until when to wait."""

    count: int
    not_before: float


class Backoff:
    """Pauses by name; who has not failed does not wait."""

    def __init__(
        self, settings: BufferSettings, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._settings = settings
        self._chance = chance
        self._failed: dict[str, _Failures] = {}

    def waits(self, name: str) -> bool:
        """Whether it is too early to try again."""
        failed = self._failed.get(name)
        return failed is not None and time.monotonic() < failed.not_before

    def fail(self, name: str) -> float:
        """Note a failure; for how many seconds to wait: half to all of the pause."""
        count = self._failed[name].count if name in self._failed else 0
        pause_s = self._settings.retry_s * 2.0 ** min(count, 30)
        pause_s = min(pause_s, self._settings.retry_most_s) * (0.5 + self._chance() / 2)
        self._failed[name] = _Failures(count + 1, time.monotonic() + pause_s)
        return pause_s

    def succeed(self, name: str) -> None:
        """Forget its failures."""
        self._failed.pop(name, None)
