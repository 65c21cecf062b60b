"""The regions that wait to be imaged, in order: pure functions on a tuple."""

import time
from collections.abc import Sequence
from typing import Any, Literal

from TEM_comms.roi import CreateROI

from em_platform.acquisition.roi import RoiFields, created
from em_platform.model import Model

Status = Literal["pending", "active", "paused", "complete", "failed", "aborted"]

FINISHED = frozenset(("complete", "aborted"))
_FINISHED_KEPT = 20  # for the page; the whole queue is written with each change


class Entry(Model):
    """One region of the queue, and what has become of it."""

    roi: RoiFields
    status: Status = "pending"
    changed_at: int = 0
    source: str | None = None
    sending: str = ""
    error: str | None = None
    calibrated: tuple[str, ...] = ()
    tilts_done: int = 0
    current_tile: int | None = None
    total_tiles: int | None = None

    @property
    def montage_id(self) -> str:
        """The name of its montage."""
        return str(self.roi["montage_id"])

    @property
    def message(self) -> CreateROI:
        """As it was asked for."""
        return created(self.roi)

    @property
    def waits(self) -> bool:
        """Whether it has not been begun."""
        return self.status == "pending"

    def changed(self, **changes: Any) -> "Entry":
        """The entry with other fields; a new status gets a new time."""
        if changes.get("status", self.status) != self.status:
            # whole seconds, as roi.status has it
            changes["changed_at"] = int(time.time())
        return self.model_copy(update=changes)


Queue = tuple[Entry, ...]


def added(queue: Queue, entry: Entry, position: int | None) -> Queue:
    """The queue with one more entry, at `position` among those that wait.

    None makes it the next. A position behind the end means the end. An entry that
    waits, or is finished, under the same montage id is replaced. The oldest of many
    finished ones are left out.
    """
    rest = [each for each in queue if each.montage_id != entry.montage_id]
    waiting = [number for number, each in enumerate(rest) if each.waits]
    place = min(max(position or 0, 0), len(waiting))
    # never before what has been begun
    at = waiting[place] if place < len(waiting) else len(rest)
    finished = [each for each in rest if each.status in FINISHED]
    old = {each.montage_id for each in finished[:-_FINISHED_KEPT]}
    return tuple(
        each for each in (*rest[:at], entry, *rest[at:]) if each.montage_id not in old
    )


def removed(queue: Queue, montage_ids: Sequence[str]) -> Queue:
    """The queue without those of `montage_ids` that wait or are finished."""
    gone = set(montage_ids)
    return tuple(
        each
        for each in queue
        if each.montage_id not in gone or not (each.waits or each.status in FINISHED)
    )


def reordered(queue: Queue, montage_ids: Sequence[str]) -> Queue:
    """The queue with the entries that wait in the order of `montage_ids`.

    Those that are not named keep their order, behind the named ones; what has been
    begun or is finished stays where it is.
    """
    rank = {name: number for number, name in enumerate(montage_ids)}
    waiting = [each for each in queue if each.waits]
    # a stable sort: those that are not named keep their order
    waiting.sort(key=lambda each: rank.get(each.montage_id, len(rank)))
    following = iter(waiting)
    return tuple(next(following) if each.waits else each for each in queue)


def current(queue: Queue) -> Entry | None:
    """The entry that has been begun and is not finished."""
    for entry in queue:
        if not entry.waits and entry.status not in FINISHED:
            return entry
    return None


def following(queue: Queue) -> Entry | None:
    """The first entry that waits."""
    return next((entry for entry in queue if entry.waits), None)


def with_entry(queue: Queue, entry: Entry) -> Queue:
    """The queue with `entry` in place of the one of its montage id."""
    return tuple(entry if e.montage_id == entry.montage_id else e for e in queue)


def status_fields(entry: Entry) -> dict[str, str | int | None]:
    """The fields of `roi.status`."""
    return {
        "montage_id": entry.montage_id,
        "roi_name": entry.roi.get("roi_name"),
        "status": entry.status,
        "timestamp": entry.changed_at,
        "source": entry.source,
        "current_tile": entry.current_tile,
        "total_tiles": entry.total_tiles,
        "error_message": entry.error,
    }
