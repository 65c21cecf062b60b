"""What is known of each tile of the present montage, and of the newest tile."""

import math
from collections import OrderedDict
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeAlias, TypedDict

from em_platform.acquisition.frame_paths import retry_of
from em_platform.messaging.topics import Body, inverted_focus

Place = tuple[int, int]

_FIGURES = {"min": "minimum", "max": "maximum", "mean": "mean", "std": "std"}


class Neighbour(TypedDict, total=False):
    """What is known of the match with the tile on one side."""

    good: int
    tried: int
    dx: float
    dy: float
    distance: float


MarkFields: TypeAlias = dict[str, Any]
"""Field of a `TileMark` -> what is known."""


@dataclass(slots=True, kw_only=True)
class TileMark:
    """One tile: its figures as far as they have come.

    `focus` is 0..1 and higher is sharper (imaging.focus). `good` of `tried` templates
    were found in the neighbours.
    """

    tile_id: str
    row: int
    column: int
    stage_nm: tuple[int, int] | None = None
    minimum: int | None = None
    maximum: int | None = None
    mean: int | None = None
    std: int | None = None
    focus: float | None = None
    good: int | None = None
    tried: int | None = None
    neighbours: dict[str, Neighbour] = field(default_factory=dict)
    passed: bool | None = None
    faults: list[Body] = field(default_factory=list)
    mini: int = 0
    version: int = 0

    @property
    def quality(self) -> float | None:
        """Share of the templates that were found; None where none was sought."""
        if not self.tried or self.good is None:
            return None
        return self.good / self.tried

    def in_short(self) -> list[Any]:
        """What the map needs: row, column, focus, quality, verdict, mini."""
        verdict = None if self.passed is None else int(self.passed)
        focus = None if self.focus is None else round(self.focus, 4)
        # 3 and 4 digits: more would only make the messages longer
        quality = None if self.quality is None else round(self.quality, 3)
        return [self.row, self.column, focus, quality, verdict, self.mini]

    def in_full(self) -> MarkFields:
        """All that is known, for the page that asks for this tile."""
        return asdict(self) | {"quality": self.quality}

    def kept(self) -> MarkFields:
        """All that is known, to be written at once: what it holds is not copied."""
        return {name: getattr(self, name) for name in _KEPT}


class ShownMap(TypedDict):
    """What a page draws; `tiles` as `TileMark.in_short` has them."""

    anew: bool
    montage_id: str
    acquisition_id: str
    rows: int
    columns: int
    tiles: list[list[Any]]


class KeptMap(TypedDict):
    """A map as it is written to the disk."""

    montage_id: str
    acquisition_id: str
    tiles: list[MarkFields]


_KEPT = tuple(each.name for each in fields(TileMark))


class TileMap:
    """The tiles of one acquisition by row and column."""

    def __init__(self, montage_id: str = "", acquisition_id: str = "") -> None:
        self.montage_id = montage_id
        self.acquisition_id = acquisition_id
        self.tiles: dict[Place, TileMark] = {}

    def imaged(self, body: Body, version: int) -> None:
        """A frame was saved."""
        mark = self._mark(body, version)
        if body.get("stage_position"):
            x, y = body["stage_position"]
            mark.stage_nm = (x, y)

    def measured(self, body: Body, version: int) -> None:
        """Minimum, maximum, mean, deviation or focus has come."""
        mark = self._mark(body, version)
        for word, attribute in _FIGURES.items():
            if word in body:
                setattr(mark, attribute, body[word])
        # not a number of a frame without texture
        if "focus" in body and math.isfinite(body["focus"]):
            mark.focus = inverted_focus(body["focus"])

    def searched(self, body: Body, version: int) -> None:
        """Templates were sought in the neighbours."""
        mark = self._mark(body, version)
        each = [match for group in body["matches"] for match in group["matches"]]
        mark.tried = len(each)
        mark.good = sum(1 for match in each if match["good"])
        for group in body["matches"]:
            good = sum(1 for match in group["matches"] if match["good"])
            mark.neighbours.setdefault(group["position"], {}).update(
                {"good": good, "tried": len(group["matches"])}
            )

    def matched(self, body: Body, version: int) -> None:
        """The shift against each neighbour was measured."""
        mark = self._mark(body, version)
        for match in body["matches"]:
            mark.neighbours.setdefault(match["position"], {}).update(
                {"dx": match["dX"], "dy": match["dY"], "distance": match["distance"]}
            )

    def judged(self, body: Body, version: int) -> None:
        """QC has judged the tile."""
        mark = self._mark(body, version)
        mark.passed = body["passed"]
        mark.faults = list(body.get("faults") or ())

    def pictured(self, body: Body, version: int) -> None:
        """A small picture of the tile is there."""
        self._mark(body, version).mini = version

    def since(self, version: int) -> list[list[Any]]:
        """The tiles that have changed after `version`, in short."""
        return [t.in_short() for t in self.tiles.values() if t.version > version]

    def size(self, total: int) -> tuple[int, int]:
        """Rows and columns, where `total` tiles are to come in all; may still grow."""
        rows = max((row for row, _ in self.tiles), default=-1) + 1
        columns = max((column for _, column in self.tiles), default=-1) + 1
        if columns and rows > 1:  # the first row is whole
            rows = max(rows, math.ceil(total / columns))
        return rows, columns

    def shown(self, since: int, *, anew: bool, total: int) -> ShownMap | None:
        """What a page draws: the tiles after `since`, or all; None for no news."""
        tiles = self.since(0 if anew else since)
        if not tiles and not anew:
            return None
        rows, columns = self.size(total)
        return {
            "anew": anew,
            "montage_id": self.montage_id,
            "acquisition_id": self.acquisition_id,
            "rows": rows,
            "columns": columns,
            "tiles": tiles,
        }

    def kept(self) -> KeptMap:
        """All of it as JSON; see `restored`."""
        return {
            "montage_id": self.montage_id,
            "acquisition_id": self.acquisition_id,
            "tiles": [tile.kept() for tile in self.tiles.values()],
        }

    @classmethod
    def restored(cls, kept: KeptMap, version: int) -> "TileMap":
        """The map that `kept` gave; small pictures are not kept."""
        made = cls(kept["montage_id"], kept["acquisition_id"])
        for known in kept["tiles"]:
            tile = TileMark(**(known | {"mini": 0, "version": version}))
            made.tiles[tile.row, tile.column] = tile
        return made

    def _mark(self, body: Body, version: int) -> TileMark:
        place = (body["row"], body["column"])
        mark = self.tiles.get(place)
        if mark is None or mark.tile_id != body["tile_id"]:
            # a frame imaged again has a higher number
            superseded = mark is not None and (
                retry_of(body["tile_id"]) < retry_of(mark.tile_id)
            )
            mark = TileMark(tile_id=body["tile_id"], row=place[0], column=place[1])
            if superseded:
                return mark  # of a frame that was rejected: it is not shown
            self.tiles[place] = mark
        mark.version = version
        return mark


_REMEMBERED = 64  # frames that may be in work: several for each pipeline process
_WORDS = ("min", "max", "mean", "std", "focus", "hist")


class NewestTile:
    """Goes on to a later tile as soon as anything of it is measured, never back."""

    def __init__(self) -> None:
        self.preview = 0
        self.preview_of = ""
        self._order: OrderedDict[str, int] = OrderedDict()
        self._saved = 0
        self._tile: MarkFields = {}

    def saved(self, body: Body) -> None:
        """A frame was saved; pipelines may finish the frames in another order."""
        self._saved += 1
        self._order[body["tile_id"]] = self._saved
        while len(self._order) > _REMEMBERED:
            self._order.popitem(last=False)

    def measured(self, body: Body) -> bool:
        """Take over the figures that the message holds; whether they are news."""
        found = {word: body[word] for word in _WORDS if word in body}
        if not found or not self._goes_on_to(body):
            return False
        if "focus" in found:
            found["focus"] = inverted_focus(found["focus"])
        self._tile.update(found)
        return True

    def pictured(self, body: Body) -> bool:
        """Whether the picture in the message is to be shown."""
        return self._goes_on_to(body)

    def shown(self) -> MarkFields:
        """All that is known of it."""
        return {**self._tile, "preview": self.preview, "preview_of": self.preview_of}

    def _goes_on_to(self, body: Body) -> bool:
        tile_id = body["tile_id"]
        present = self._tile.get("tile_id")
        if tile_id == present:
            return True
        # 0: a frame that was not announced counts as older than all that were.
        if self._order.get(tile_id, 0) < self._order.get(present or "", 0):
            return False
        self._tile = {k: body[k] for k in ("tile_id", "montage_id", "row", "column")}
        return True
