"""The parts of the page: named values, pictures, the QC light and the event log."""

import base64
import binascii
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

from em_platform.messaging.topics import Body

Values: TypeAlias = dict[str, Any]
"""Part of the page -> its value, as JSON."""


class Parts:
    """Values by name; `version` grows with every change of any of them."""

    def __init__(self) -> None:
        self.version = 0
        self._values: Values = {}
        self._changed: dict[str, int] = {}

    def bump(self) -> int:
        """A new version, for something that changed beside the parts."""
        self.version += 1
        return self.version

    def put(self, name: str, value: Any) -> None:
        """Set one part; the same value again is no change."""
        # devices repeat themselves each second; nothing goes to the browsers then
        if name in self._values and self._values[name] == value:
            return
        self._values[name] = value
        self._changed[name] = self.bump()

    def get(self, name: str) -> Any:
        """The present value, None where there was none."""
        return self._values.get(name)

    def since(self, version: int) -> Values:
        """The parts that have changed after `version`."""
        return {n: self._values[n] for n, v in self._changed.items() if v > version}


_MOST_BYTES = 128_000_000  # of pictures in memory: a T1 montage's minis and more


@dataclass(frozen=True, slots=True)
class Picture:
    """Bytes of an image file and what kind they are."""

    content: bytes
    media_type: str


class Pictures:
    """By name; the oldest go when all together are too large."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held: OrderedDict[str, Picture] = OrderedDict()
        self._size = 0

    def put(self, name: str, text: str | None) -> bool:
        """Hold a base64 picture, also a `data:` address; whether it is a picture."""
        picture = decoded(text or "")
        if picture is None:
            return False
        self.drop(name)
        self._held[name] = picture
        self._size += len(picture.content)
        # the newest stays, however large it is
        while self._size > self._most_bytes and len(self._held) > 1:
            _, oldest = self._held.popitem(last=False)
            self._size -= len(oldest.content)
        return True

    def get(self, name: str) -> Picture | None:
        """The picture, where it is held."""
        return self._held.get(name)

    def drop(self, name: str) -> None:
        """Forget one picture."""
        if (old := self._held.pop(name, None)) is not None:
            self._size -= len(old.content)

    def drop_all(self, prefix: str) -> None:
        """Forget all pictures whose name begins so."""
        for name in [name for name in self._held if name.startswith(prefix)]:
            self.drop(name)


def decoded(text: str) -> Picture | None:
    """The picture in a base64 text; None where it is no JPEG, PNG, WebP or GIF."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        # not strict: some senders break the lines
        content = base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError):
        return None
    kind = _kind(content)
    return Picture(content, kind) if kind else None


def _kind(content: bytes) -> str:
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return "image/gif" if content.startswith(b"GIF8") else ""


_WEIGHT = {"GOOD": 0, "STOP_AT_END": 1, "STOP_NOW": 2}


@dataclass(slots=True, kw_only=True)
class Status:
    """What one service published last."""

    status: str
    reason: str
    since: float
    seen_at: float


class ShownLight(TypedDict):
    """The worst status, whose it is and since when; `seen_at`: QC's last message."""

    status: str
    reason: str
    by: str
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

    def shown(self) -> ShownLight | None:
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


_REMEMBERED = 60  # lines; they are sent whole with each new one
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


class Line(TypedDict):
    """One line of the journal; `at` is a Unix time."""

    number: int
    at: float
    kind: str
    text: str


class Journal:
    """The latest lines; each has a number, a time and a kind."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=_REMEMBERED)
        self._number = 0

    def add(self, kind: str, text: str, now: float) -> None:
        """Write a line at the Unix time `now`."""
        self._number += 1
        self._lines.append(
            {"number": self._number, "at": now, "kind": kind, "text": text}
        )

    def ends_with(self, text: str) -> bool:
        """Whether the last line is that text."""
        return bool(self._lines) and self._lines[-1]["text"] == text

    def shown(self) -> list[Line]:
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


def of_verdict(shown: ShownLight) -> str:
    """What the QC light shows."""
    return f"QC: {_VERDICTS[shown['status']]}{_why(shown['reason'])}"


def of_tile(body: Body) -> str:
    """What a qc.tile reports of a tile that failed."""
    faults = ", ".join(spoken(fault["fault_type"]) for fault in body["faults"] or ())
    place = f"row {body['row']}, column {body['column']}"
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
