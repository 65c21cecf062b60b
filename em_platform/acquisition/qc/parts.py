"""What arrives about one tile, piece by piece, reduced to what the rules need."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from em_platform.acquisition.frame_paths import frame_path
from em_platform.acquisition.live_products import recipe_of_tile
from em_platform.acquisition.qc.judge import Cell, TileFacts
from em_platform.errors import DataError, DeviceError
from em_platform.messaging.topics import Body, inverted_focus
from em_platform.stitching.tile_rules import saturated_fraction

log = logging.getLogger(__name__)

Part = dict[str, Any]

# Published together, before the matches.
_STATISTICS = frozenset(("mean", "focus", "saturated_fraction"))
# Not the deviation: it comes with the mean; not the tried edges: with the matches.
_NEEDED = _STATISTICS | {"edges"}


def _statistics(message: Any) -> Part:
    return {"mean": message.mean, "std": message.std}


def _focus(message: Any) -> Part:
    return {"focus": inverted_focus(message.focus)}


def _histogram(message: Any) -> Part:
    return {"saturated_fraction": saturated_fraction(message.hist)}


def _matches(message: Any) -> Part:
    return {"edges": [[m.row, m.column, len(m.pX)] for m in message.matches]}


def _tried(message: Any) -> Part:
    return {"tried": [[c.row, c.column] for c in message.matches]}


TOPICS: Mapping[str, Callable[[Any], Part]] = {
    "tile.statistics.min_max_mean": _statistics,
    "tile.statistics.focus": _focus,
    "tile.statistics.histogram": _histogram,
    "tile.template_matches": _tried,
    "tile.matches": _matches,
}
"""Topic -> what is kept of its message."""

_FIELDS = ("tile_id", "montage_id", "roi_id", "row", "column", "overlap")


def fields_of(message: Any) -> Body:
    """The fields that every message about this tile has."""
    fields = {name: getattr(message, name) for name in _FIELDS}
    place = message.stage_position
    return {**fields, "stage_position": None if place is None else list(place)}


@dataclass(slots=True, kw_only=True)
class Pending:
    """A tile that is not judged yet.

    `is_announced`: its frame was announced while we listened, so that what does not
    come was not published. `since_s` is the monotonic time of its first message,
    `whole_s` the one since which it can be judged, `passed_s` the one since which
    tiles that were imaged later can.
    """

    fields: Body
    number: int
    since_s: float
    is_announced: bool = False
    whole_s: float | None = None
    passed_s: float | None = None
    part: Part = field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """Its row and column."""
        return self.fields["row"], self.fields["column"]

    @property
    def is_whole(self) -> bool:
        """Whether all that a verdict needs is there."""
        return self.part.keys() >= _NEEDED

    @property
    def is_unreadable(self) -> bool:
        """Whether its matches came without figures, which the pipeline sends before."""
        return "edges" in self.part and self.part.keys().isdisjoint(_STATISTICS)

    @property
    def is_silent(self) -> bool:
        """Whether nothing but its announcement came."""
        return not self.part

    def facts(self) -> TileFacts:
        """What is known; an edge that was tried and has no match has no points."""
        edges: dict[Cell, int] | None = None
        if "edges" in self.part:
            edges = dict.fromkeys(map(tuple, self.part.get("tried", ())), 0)
            edges |= {(row, column): n for row, column, n in self.part["edges"]}
        values = {
            name: self.part.get(name)
            for name in ("mean", "std", "focus", "saturated_fraction")
        }
        return TileFacts(**values, edges=edges)


def measure_frame(frames: Path, fields: Body) -> Part | None:
    """The statistics of a tile's processed frame; None where there is none.

    They are of the valid box of its montage's recipe, as the pipeline's are. Its edges
    are left to the montage fit, which measures what nobody published.
    """
    tile_id = fields["tile_id"]
    try:
        raw = frame_path(frames, fields["montage_id"], tile_id)
    except DeviceError:
        return None
    recipe = recipe_of_tile(str(raw), tile_id, fields["montage_id"])
    if recipe is None:
        return None
    # Only needed where messages were lost, and slow to load.
    from em_platform.acquisition.live_products import measured_tile

    try:
        stats = measured_tile(str(raw), tile_id, recipe)
    except DataError as error:
        log.warning("%s", error)
        return None
    if stats is None:
        return None
    return {
        "mean": round(stats.mean),  # whole grey levels, as the message has them
        "std": round(stats.std),
        "focus": stats.focus,
        "saturated_fraction": saturated_fraction(stats.histogram),
        "edges": [],  # Measured from one frame: neighbours are the montage fit's
    }
