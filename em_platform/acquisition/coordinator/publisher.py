"""What the coordinator publishes of its session."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from em_platform.acquisition.coordinator import roi_queue
from em_platform.acquisition.coordinator.imaging import Imaging, TileDone
from em_platform.acquisition.coordinator.registry import SessionState
from em_platform.acquisition.coordinator.roi_queue import Entry
from em_platform.acquisition.roi import RoiFields
from em_platform.messaging.topics import Body, model_of

_RECENT = 10  # tiles over which montage.status averages the cycle


class InProgress(Protocol):
    """An acquisition while it is imaged."""

    tiles: dict[str, TileDone]
    """Of tiles that are imaged: id -> where each was, in the order of imaging."""
    cycles_s: list[float]
    """How long each tile took."""
    move_s: float
    capture_s: float

    @property
    def stops(self) -> Sequence[Any]:
        """Of all tiles."""

    @property
    def seconds(self) -> float:
        """Since its start."""


def progress_fields(acquisition: InProgress, now: datetime) -> Body:
    """The figures of `montage.status`: how far, how fast, until when."""
    done, total = len(acquisition.tiles), len(acquisition.stops)
    last = next(reversed(acquisition.tiles.values()), None)
    figures = {
        "current_tile": done,
        "total_tiles": total,
        "duration_seconds": acquisition.seconds,
        "current_position": last["stage_position"] if last else None,
    }
    recent = acquisition.cycles_s[-_RECENT:]
    if not recent:
        return figures
    cycle_s = sum(recent) / len(recent)
    return figures | {
        "avg_cycle_time_ms": cycle_s * 1000,
        "stage_move_time_ms": acquisition.move_s * 1000,
        "capture_time_ms": acquisition.capture_s * 1000,
        # of the last tiles, so that a pause does not count for ever
        "throughput_tiles_per_min": 60 / cycle_s,
        "estimated_completion": now + timedelta(seconds=cycle_s * (total - done)),
    }


State = Literal[
    "started", "in_progress", "paused", "resumed", "cancelled", "completed", "error"
]

Send = Callable[..., None]


class Publisher:
    """Turns what has happened into messages."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self._state = ""

    def tile(self, raw: Body) -> None:
        """A frame is there."""
        self.send("tile.raw", **raw)

    def montage(
        self, state: State, imaging: Imaging, *, error: str | None = None
    ) -> None:
        """How the acquisition is doing, with every figure."""
        self.send(
            "montage.status",
            montage_id=imaging.montage_id,
            state=state,
            error_message=error,
            **imaging.tilt,
            **progress_fields(imaging, datetime.now(UTC)),
        )

    def trouble(self, montage_id: str, error: str) -> None:
        """Something went wrong before the montage, or (empty id) without one."""
        self.send(
            "montage.status", montage_id=montage_id, state="error", error_message=error
        )

    def complete(self, fields: Body) -> None:
        """All tiles are there."""
        self.send("montage.complete", **fields)

    def roi_current(self, roi: RoiFields) -> None:
        """What is imaged from now on."""
        # roi.create has more fields, which roi.current refuses
        known = model_of("roi.current").model_fields
        self.send("roi.current", **{name: roi[name] for name in known if name in roi})

    def roi(self, entry: Entry, imaging: Imaging | None = None) -> None:
        """What has become of one region, and how far its montage is now."""
        fields = roi_queue.status_fields(entry)
        if imaging is not None and imaging.montage_id == entry.montage_id:
            fields["current_tile"] = len(imaging.tiles)
            fields["total_tiles"] = len(imaging.stops)
        self.send("roi.status", **fields)

    def refused(self, montage_id: str, error: str) -> None:
        """A region that was asked for is not taken."""
        self.send(
            "roi.status",
            montage_id=montage_id,
            status="failed",
            timestamp=int(time.time()),
            error_message=error,
        )

    def queue(self, session: SessionState) -> None:
        """All regions that wait, and those that were begun or finished."""
        current = roi_queue.current(session.queue)
        self.send(
            "roi.queue.status",
            queue=[roi_queue.status_fields(entry) for entry in session.queue],
            active_montage_id=None if current is None else current.montage_id,
            completed_count=session.completed,
            timestamp=int(time.time()),
        )

    def state(self, state: str) -> None:
        """Where the machine is; with the change, if it has changed."""
        # the first state of a process is no change
        if self._state and state != self._state:
            self.send("state.change", old=self._state, new=state)
        self._state = state
        # also without a change: late listeners learn it
        self.send("state.current", state=state)
