"""One light from all that was said on qc.status."""

from dataclasses import dataclass
from typing import Any

_WEIGHT = {"GOOD": 0, "STOP_AT_END": 1, "STOP_NOW": 2}


@dataclass(slots=True, kw_only=True)
class Word:
    """What one service said last."""

    status: str
    reason: str
    since: float
    heard_at: float


class QcLight:
    """The worst word in force; a stop holds until the operator starts again."""

    def __init__(self) -> None:
        self._words: dict[str, Word] = {}

    def hear(self, service: str, status: str, reason: str, *, now: float) -> None:
        """Note a qc.status of `service` at the Unix time `now`."""
        word = self._words.get(service)
        if word is None or word.status != status:
            self._words[service] = Word(
                status=status, reason=reason, since=now, heard_at=now
            )
            return
        word.heard_at = now
        word.reason = reason or word.reason

    def start_anew(self) -> None:
        """The operator goes on: stops that were said before are answered."""
        for service in [s for s, word in self._words.items() if word.status != "GOOD"]:
            del self._words[service]

    def shown(self) -> dict[str, Any] | None:
        """Status, reason, who said it, since when, and when QC was heard last."""
        if not self._words:
            return None
        service, worst = max(
            self._words.items(), key=lambda item: _WEIGHT.get(item[1].status, 2)
        )
        return {
            "status": worst.status,
            "reason": worst.reason,
            "by": service,
            "since": worst.since,
            "heard_at": max(word.heard_at for word in self._words.values()),
        }
