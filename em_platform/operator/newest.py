"""The newest tile: its picture, figures and histogram, which come one by one."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

_REMEMBERED = 64
_WORDS = ("min", "max", "mean", "std", "focus", "hist")


class NewestTile:
    """Goes on to a later tile as soon as anything of it is measured, never back."""

    def __init__(self) -> None:
        self.preview = 0
        self.preview_of = ""
        self._order: OrderedDict[str, int] = OrderedDict()
        self._saved = 0
        self._tile: dict[str, Any] = {}

    def saved(self, body: Mapping[str, Any]) -> None:
        """A frame was saved; pipelines may finish the frames in another order."""
        self._saved += 1
        self._order[body["tile_id"]] = self._saved
        while len(self._order) > _REMEMBERED:
            self._order.popitem(last=False)

    def measured(self, body: Mapping[str, Any]) -> bool:
        """Take over the figures that the message holds; whether they are news."""
        found = {word: body[word] for word in _WORDS if word in body}
        if not found or not self._goes_on_to(body):
            return False
        self._tile.update(found)
        return True

    def pictured(self, body: Mapping[str, Any]) -> bool:
        """Whether the picture in the message is to be shown."""
        return self._goes_on_to(body)

    def shown(self) -> dict[str, Any]:
        """All that is known of it."""
        return {**self._tile, "preview": self.preview, "preview_of": self.preview_of}

    def _goes_on_to(self, body: Mapping[str, Any]) -> bool:
        tile_id = body["tile_id"]
        present = self._tile.get("tile_id")
        if tile_id == present:
            return True
        if self._order.get(tile_id, 0) < self._order.get(present or "", 0):
            return False
        self._tile = {k: body[k] for k in ("tile_id", "montage_id", "row", "column")}
        return True
