"""What arrives about one tile, piece by piece, reduced to what the rules need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from em_platform.acquisition.qc.judge import Cell, TileFacts
from em_platform.messaging.topics import inverted_focus
from em_platform.stitching.tile_rules import saturated_fraction

Part = dict[str, Any]

_NEEDED = frozenset(("mean", "focus", "saturated_fraction", "edges"))


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


def fields_of(message: Any) -> dict[str, Any]:
    """The fields that every message about this tile has."""
    fields = {name: getattr(message, name) for name in _FIELDS}
    place = message.stage_position
    return {**fields, "stage_position": None if place is None else list(place)}


@dataclass(slots=True, kw_only=True)
class Pending:
    """A tile that is not judged yet.

    `heard_from_start`: its frame was announced while we listened, so that what does not
    come was not said. `since_s` is the monotonic time of its first message, `passed_s`
    the one since which tiles that were imaged later have their verdict.
    """

    fields: dict[str, Any]
    number: int
    since_s: float
    heard_from_start: bool = False
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
