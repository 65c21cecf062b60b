"""How far and how fast an acquisition is, as `montage.status` says it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

_RECENT = 10  # tiles over which montage.status averages the cycle


class InProgress(Protocol):
    """An acquisition while it is imaged."""

    tiles: dict[str, dict[str, Any]]
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


def progress_fields(acquisition: InProgress, now: datetime) -> dict[str, Any]:
    """The figures of `montage.status`: how far, how fast, until when."""
    done, total = len(acquisition.tiles), len(acquisition.stops)
    last = next(reversed(acquisition.tiles.values()), None)
    figures: dict[str, Any] = {
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
        "throughput_tiles_per_min": 60 / cycle_s,
        "estimated_completion": now + timedelta(seconds=cycle_s * (total - done)),
    }
