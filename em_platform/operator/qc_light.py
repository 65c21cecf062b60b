"""One light from all messages on qc.status."""

from dataclasses import dataclass
from typing import Any

_WEIGHT = {"GOOD": 0, "STOP_AT_END": 1, "STOP_NOW": 2}


@dataclass(slots=True, kw_only=True)
class Status:
    """What one service published last."""

    status: str
    reason: str
    since: float
    seen_at: float


class QcLight:
    """The worst status in force; a stop holds until the operator starts again."""

    def __init__(self) -> None:
        self._statuses: dict[str, Status] = {}

    def receive(self, service: str, status: str, reason: str, *, now: float) -> None:
        """Note a qc.status of `service` at the Unix time `now`."""
        word = self._statuses.get(service)
        if word is None or word.status != status:
            self._statuses[service] = Status(
                status=status, reason=reason, since=now, seen_at=now
            )
            return
        word.seen_at = now
        word.reason = reason or word.reason

    def start_anew(self) -> None:
        """The operator goes on: earlier stops are acknowledged."""
        for service in [
            s for s, word in self._statuses.items() if word.status != "GOOD"
        ]:
            del self._statuses[service]

    def shown(self) -> dict[str, Any] | None:
        """Status, reason, its service, since when, and when QC was last seen."""
        if not self._statuses:
            return None
        service, worst = max(
            self._statuses.items(), key=lambda item: _WEIGHT.get(item[1].status, 2)
        )
        return {
            "status": worst.status,
            "reason": worst.reason,
            "by": service,
            "since": worst.since,
            "seen_at": max(word.seen_at for word in self._statuses.values()),
        }
