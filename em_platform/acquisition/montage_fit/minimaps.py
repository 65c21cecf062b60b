"""The pictures of `montage.minimaps`: the fitted montage, and a map of the focus."""

import base64
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.montage_fit.growing import Cell, GrowingTile
from em_platform.messaging.topics import inverted_focus
from em_platform.model import MontageFit, Size

Grey = NDArray[np.uint8]

_QUALITY = 85  # Of the JPEG; the map is looked at, not measured
_MOST_CELL_PX = 24  # A montage of few tiles has cells that are large enough to see
_MAP_PX = 768  # The longer side at most, where there are many tiles
_BAR = (16, 256)  # px, height and width: a column for each grey level
_PALE = 233  # where there is no tile


class Minimap(TypedDict):
    """A picture and its colour bar, base64, and the values at the bar's ends."""

    image: str | None
    colorbar: str
    min: float | None
    max: float | None


def montage_map(
    tiles: Mapping[str, GrowingTile], fit: MontageFit, *, size: Size, longest_px: int
) -> Minimap:
    """The minis at their fitted places as a JPEG; a grey bar from 0 to 255."""
    image = montage_picture(tiles, fit, size=size, longest_px=longest_px)
    ramp = np.tile(np.linspace(0, 255, _BAR[1]).astype(np.uint8), (_BAR[0], 1))
    return {
        "image": None if image is None else _encoded(".jpg", image),
        "colorbar": _encoded(".png", ramp),
        "min": 0.0,
        "max": 255.0,
    }


def montage_picture(
    tiles: Mapping[str, GrowingTile], fit: MontageFit, *, size: Size, longest_px: int
) -> Grey | None:
    """`(h, w)` of at most `longest_px`; None where no tile has a picture.

    It is not enlarged beyond the resolution of the minis.
    """
    minis = dict(_minis(tiles.values()))
    placed = [place for place in fit.placements if place.tile_id in minis]
    if not placed:
        return None
    places = np.array([(place.y_px, place.x_px) for place in placed])
    origin = places.min(axis=0)
    tile_px = np.array([size.height_px, size.width_px], float)
    extent = places.max(axis=0) - origin + tile_px
    finest = max(minis[place.tile_id].shape[0] for place in placed) / tile_px[0]
    scale = min(longest_px / extent.max(), finest)
    height, width = np.maximum(1, np.ceil(extent * scale)).astype(int).tolist()
    sheet: Grey = np.full((height, width), _PALE, np.uint8)
    # rounded up: a pixel too few would look like a gap
    side = np.maximum(1, np.ceil(tile_px * scale)).astype(int)
    for place, corner in zip(placed, (places - origin) * scale, strict=True):
        y, x = np.rint(corner).astype(int).tolist()
        small = cv2.resize(
            minis[place.tile_id],
            (int(side[1]), int(side[0])),
            interpolation=cv2.INTER_AREA,
        )
        part = sheet[y : y + side[0], x : x + side[1]]
        # so the last tiles may reach over the sheet
        part[:] = small[: part.shape[0], : part.shape[1]]
    return sheet[:longest_px, :longest_px]


def focus_map(tiles: Mapping[str, GrowingTile]) -> Minimap:
    """One cell a tile, as a PNG; bright is sharp.

    The values are those of `tile.statistics.focus`: lower is sharper.
    """
    values = {
        t.cell: inverted_focus(t.focus) for t in tiles.values() if t.focus is not None
    }
    ramp = np.tile(np.linspace(255, 0, _BAR[1]).astype(np.uint8), (_BAR[0], 1))
    bar = _encoded(".png", _coloured(ramp))
    if not values:
        return {"image": None, "colorbar": bar, "min": None, "max": None}
    low, high = min(values.values()), max(values.values())
    cells = focus_cells(values, [t.cell for t in tiles.values()], low=low, high=high)
    return {
        "image": _encoded(".png", cells),
        "colorbar": bar,
        "min": low,
        "max": high,
    }


def focus_cells(
    values: Mapping[Cell, float], cells: Iterable[Cell], *, low: float, high: float
) -> NDArray[np.uint8]:
    """`(h, w, 3)` blue, green, red; each cell a square, pale where nothing is known."""
    every = np.array(list(cells))
    first, last = every.min(axis=0), every.max(axis=0)
    rows, columns = (last - first + 1).tolist()
    grid: NDArray[np.uint8] = np.full((rows, columns, 3), _PALE, np.uint8)
    places = np.array(list(values)) - first
    # 1e-9: all tiles may have the same value
    share = (np.array(list(values.values())) - low) / max(high - low, 1e-9)
    levels = np.rint(255 * (1.0 - share)).astype(np.uint8)
    grid[places[:, 0], places[:, 1]] = _coloured(levels[None])[0]
    side = int(np.clip(_MAP_PX // max(rows, columns), 1, _MOST_CELL_PX))
    return np.repeat(np.repeat(grid, side, axis=0), side, axis=1)


def _coloured(levels: Grey) -> NDArray[np.uint8]:
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), np.uint8)


def _minis(tiles: Iterable[GrowingTile]) -> Iterable[tuple[str, Grey]]:
    for tile in tiles:
        image = _decoded(tile.mini)
        if image is not None:
            yield tile.tile_id, image


@lru_cache(maxsize=8192)  # the same minis are drawn again and again
def _decoded(mini: bytes) -> Grey | None:
    content = np.frombuffer(mini, np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if len(content) else None
    return None if image is None else np.asarray(image, np.uint8)


def _encoded(kind: str, image: NDArray[np.uint8]) -> str:
    options = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY) if kind == ".jpg" else ()
    _, content = cv2.imencode(kind, image, options)
    return base64.b64encode(content.tobytes()).decode("ascii")
