"""The montages that have ended, and what became of them in Dagster."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

_MOST = 40


class Finished:
    """By acquisition, the latest last; the oldest are forgotten."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def ended(
        self,
        acquisition_id: str,
        *,
        montage_id: str,
        tiles: int,
        outcome: str,
        reason: str,
        now: float,
    ) -> None:
        """Record the end of one acquisition; a completion is never taken back."""
        before = self._ended.get(acquisition_id)
        if before is not None and before["outcome"] == "completed":
            return
        self._ended[acquisition_id] = {
            "acquisition_id": acquisition_id,
            "montage_id": montage_id,
            "tiles": tiles,
            "outcome": outcome,
            "reason": reason,
            "at": now if before is None else before["at"],
            "run": None if before is None else before["run"],
        }
        while len(self._ended) > _MOST:
            self._ended.popitem(last=False)

    def set_run(self, acquisition_id: str, run: Mapping[str, Any]) -> bool:
        """Note Dagster's result; whether that is news."""
        entry = self._ended.get(acquisition_id)
        if entry is None or entry["run"] == run:
            return False
        self._ended[acquisition_id] = {**entry, "run": dict(run)}
        return True

    def to_ask(self, most: int) -> list[str]:
        """Acquisitions of which Dagster is asked: unsettled ones, and the latest.

        A montage whose stitching is over may be stitched again.
        """
        latest = [key for key, e in self._ended.items() if e["outcome"] == "completed"]
        return list(dict.fromkeys((*self.unsettled()[-most:], *latest[-most:])))

    def unsettled(self) -> list[str]:
        """Acquisitions that are complete and whose result may still change."""
        return [
            acquisition_id
            for acquisition_id, entry in self._ended.items()
            if entry["outcome"] == "completed"
            and (entry["run"] is None or not entry["run"]["is_over"])
        ]

    def shown(self) -> list[dict[str, Any]]:
        """All of them, the latest first."""
        return list(reversed(self._ended.values()))

    def restore(self, kept: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `shown` once gave."""
        for entry in reversed(kept):
            self._ended.setdefault(entry["acquisition_id"], dict(entry))
