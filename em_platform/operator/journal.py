"""The event log, one sentence an event, as the operator reads it."""

from collections import deque
from collections.abc import Mapping
from typing import Any

_REMEMBERED = 60
_STATES = {
    "started": "has started",
    "in_progress": "continues",
    "paused": "is paused",
    "resumed": "continues",
    "cancelled": "was cancelled",
    "completed": "is complete",
    "error": "stopped with an error",
}
_VERDICTS = {"GOOD": "good", "STOP_AT_END": "stop at end", "STOP_NOW": "stop now"}

Body = Mapping[str, Any]


class Journal:
    """The latest lines; each has a number, a time and a kind."""

    def __init__(self) -> None:
        self._lines: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)
        self._number = 0

    def add(self, kind: str, text: str, now: float) -> None:
        """Write a line at the Unix time `now`."""
        self._number += 1
        line = {"number": self._number, "at": now, "kind": kind, "text": text}
        self._lines.append(line)

    def ends_with(self, text: str) -> bool:
        """Whether the last line is that text."""
        return bool(self._lines) and self._lines[-1]["text"] == text

    def shown(self) -> list[dict[str, Any]]:
        """All lines, the latest last."""
        return list(self._lines)


def of_montage(body: Body) -> str:
    """What a montage.status reports."""
    state = _STATES.get(body["state"], body["state"])
    return f"Montage {body['montage_id']} {state}{_why(body.get('error_message'))}"


def of_region(body: Body) -> str:
    """What a roi.status with an error says."""
    name = body.get("roi_name") or body["montage_id"]
    return f"Region {name} {body['status']}{_why(body['error_message'])}"


def of_verdict(shown: Body) -> str:
    """What the QC light shows."""
    return f"QC: {_VERDICTS[shown['status']]}{_why(shown['reason'])}"


def of_tile(body: Body) -> str:
    """What a qc.tile reports of a tile that failed."""
    faults = ", ".join(spoken(fault["fault_type"]) for fault in body["faults"] or ())
    place = f"row {body['row'] + 1}, column {body['column'] + 1}"
    return f"Tile at {place} failed{_why(faults)}"


def of_lens(body: Body) -> str:
    """What a lens_correction.transform reports."""
    found = f"residual {body['residual_mean_px']:.2f} px" if body["ok"] else "failed"
    return f"Lens correction of {body['montage_id']}: {found}"


def of_order(words: list[str]) -> str:
    """What a ui.run or ui.setup asks for."""
    return f"Asked for: {', '.join(map(spoken, words))}"


def spoken(word: str) -> str:
    """A word of a message as people say it."""
    return word.replace("_", " ").replace("abort", "stop")


def _why(reason: str | None) -> str:
    return f": {reason}" if reason else ""
