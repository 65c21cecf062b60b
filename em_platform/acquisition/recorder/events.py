"""A message as a row of the events' table; what makes two messages one event."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from em_platform.messaging.topics import Body

COMPLETE, RAW, SCOPE = "montage.complete", "tile.raw", "scope.status"
PROGRESS, VERDICT, STATUS, RUN = "montage.status", "qc.tile", "qc.status", "ui.run"
REGION, CENTROID = "roi.current", "calibration.centroid"
LENS = "lens_correction.transform"
RESULTS = (
    "tile.processed",
    "tile.statistics.min_max_mean",
    "tile.statistics.focus",
    "tile.statistics.histogram",
    "tile.template_matches",
    "tile.matches",
    "tile.mini",
)
"""What the pipeline measures of each tile: most of the table, and soon pruned."""

INCOMPLETE = "incomplete"
"""The fault of a tile that is judged without all its figures."""

KEPT_ACQUISITIONS = 8
"""Of so many, begun last, these stay: quality control resumes with three of them, and a
tilt series or a second region may have begun since."""

TOPICS = (
    *(COMPLETE, RAW, PROGRESS, STATUS, SCOPE, LENS),
    *(VERDICT, RUN, REGION, CENTROID),
    *RESULTS,
)
"""What is recorded; the order of arrival is kept across all of them."""

_REPEATED = frozenset((PROGRESS, STATUS, SCOPE, RUN))
"""Topics that have the same body again on purpose: each sending is its own event."""

_SENDING = ("source", "sent_at", "sequence")
"""Headers that differ between two sendings; a message sent again has the same."""

# A path, a Dagster partition and a URL take all of these; no leading dot or dash.
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One recorded message; `seq` grows in the order of recording."""

    seq: int
    topic: str
    body: Body
    headers: dict[str, str]
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """One message that is to be recorded."""

    topic: str
    body: Body
    headers: Mapping[str, str]


def is_preliminary(verdict: Body) -> bool:
    """Whether the body of a `qc.tile` was published while figures had not come.

    Quality control publishes another one when they do, which supersedes it.
    """
    return any(
        fault["fault_type"] == INCOMPLETE and fault["confidence"] < 1.0
        for fault in verdict.get("faults") or ()
    )


def row_of(message: Message) -> dict[str, Any]:
    """The table's row for one thing message."""
    acquisition_id = message.body.get("acquisition_id")
    return {
        "key": content_key(message),
        "topic": message.topic,
        "acquisition_id": None if acquisition_id is None else safe_id(acquisition_id),
        "montage_id": message.body.get("montage_id"),
        "tile_id": message.body.get("tile_id"),
        "body": _canonical(message.body),
        "headers": _canonical(dict(message.headers)),
        "recorded_at": int(datetime.now(UTC).timestamp() * 1000),
    }


def event_of(row: Any) -> Event:
    """The event in one row."""
    return Event(
        seq=row.seq,
        topic=row.topic,
        body=json.loads(row.body),
        headers=json.loads(row.headers),
        recorded_at=datetime.fromtimestamp(row.recorded_at / 1000, UTC),
    )


def content_key(message: Message) -> str:
    """Equal for the same message twice, from the bus or from the disk.

    Topic and body decide; for topics that repeat, which sending it was, too.
    """
    parts: list[Any] = [message.topic, message.body]
    if message.topic in _REPEATED:
        # Else the second START of the operator would be taken for the first.
        parts += [message.headers.get(name) for name in _SENDING]
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()


def safe_id(acquisition_id: str) -> str:
    """An acquisition id as a path and a partition may be called.

    One that is safe stays; in another each odd character becomes `_` and eight digits
    of its SHA-256 keep it apart from others.
    """
    if _SAFE.fullmatch(acquisition_id):
        return acquisition_id
    digits = hashlib.sha256(acquisition_id.encode()).hexdigest()[:8]
    # 150: with dash and digits it is below the 200 of the pattern.
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", acquisition_id).lstrip("._-")[:150]
    return f"{stem or 'montage'}-{digits}"


def _canonical(value: Any) -> str:
    # One text for equal content, in whatever order a sender has its keys.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
