"""Two pictures of a montage that a person understands at a glance, as PNG files."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.model import Montage
from em_platform.stitching import canvas
from em_platform.stitching.canvas import WIDTH_PX, Canvas, Colour
from em_platform.stitching.residual_plot import residual_plot

__all__ = ["residual_plot", "tile_map"]

_HEIGHT_PX = 900  # of the drawing, at most
_MARGIN_PX = 24
_HEAD_PX = 92  # title, subtitle, and the columns' numbers
_LEFT_PX = 62  # the rows' numbers
_BAR_PX = 120  # colour bar with its numbers
_MAX_CELL_PX = 140.0
_READABLE_PX = 44.0  # a cell at least so large shows its value
_COLOURS = 256


def tile_map(montage: Montage, values: Mapping[str, float], title: str) -> bytes:
    """The grid of tiles, each coloured by its value, with a colour bar.

    A place without a tile, or a tile without a value, is pale and crossed out.

    Parameters
    ----------
    values
        Tile id -> any number; the scale starts at 0 where none is negative.
    title
        What is shown, with its unit.

    Returns
    -------
    bytes
        PNG, 900 px wide.
    """
    tiles = {(tile.row, tile.column): tile.tile_id for tile in montage.tiles}
    grid = _Grid.around(list(tiles))
    scale = _Scale.of(list(values.values()))
    bar_px = max(grid.rows * grid.cell_px, 140.0)
    sheet = Canvas(round(_HEAD_PX + bar_px + _MARGIN_PX), WIDTH_PX)
    sheet.head(title, _spread(montage, values))
    _number_lines(sheet, grid)
    for row in range(grid.rows):
        for column in range(grid.columns):
            tile_id = tiles.get((row + grid.first_row, column + grid.first_column), "")
            _draw_cell(sheet, grid.place(row, column), values.get(tile_id), scale=scale)
    right = grid.place(0, grid.columns).x
    _draw_bar(sheet, scale, left_px=right + 20, height_px=bar_px)
    return sheet.png()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    y: float
    x: float
    side_px: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Which rows and columns there are, and how large a cell is drawn."""

    first_row: int
    first_column: int
    rows: int
    columns: int

    @classmethod
    def around(cls, places: list[tuple[int, int]]) -> "_Grid":
        rows = [row for row, _ in places] or [0]
        columns = [column for _, column in places] or [0]
        return cls(
            first_row=min(rows),
            first_column=min(columns),
            rows=max(rows) - min(rows) + 1,
            columns=max(columns) - min(columns) + 1,
        )

    @property
    def cell_px(self) -> float:
        room = WIDTH_PX - _LEFT_PX - _BAR_PX - _MARGIN_PX
        return min(_MAX_CELL_PX, room / self.columns, _HEIGHT_PX / self.rows)

    def place(self, row: int, column: int) -> _Cell:
        return _Cell(
            y=_HEAD_PX + row * self.cell_px,
            x=_LEFT_PX + column * self.cell_px,
            side_px=self.cell_px,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Which value has which colour (viridis: even for the colour-blind)."""

    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "_Scale":
        low = min([0.0, *values])
        high = max([low, *values])
        return cls(low=low, high=high if high > low else low + 1.0)

    def colour(self, value: float) -> Colour:
        share = (value - self.low) / (self.high - self.low)
        red, green, blue = _viridis()[round(share * (_COLOURS - 1)), 0].tolist()
        return red, green, blue


def _viridis() -> NDArray[np.uint8]:
    """`(256, 1, 3)` red, green, blue, from dark to bright."""
    ramp = np.arange(_COLOURS, dtype=np.uint8)[:, None]
    bgr = cv2.applyColorMap(ramp, cv2.COLORMAP_VIRIDIS)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _spread(montage: Montage, values: Mapping[str, float]) -> str:
    text = f"{montage.acquisition_id}: {canvas.count(len(montage.tiles), 'tile')}"
    missing = montage.expected_tiles - len(montage.tiles)
    if missing > 0:
        text += f", {missing} missing"
    if values:
        found = list(values.values())
        figures = (min(found), float(np.median(found)), max(found))
        text += "; least {}, median {}, most {}".format(*map(_number, figures))
    return text


def _number(value: float) -> str:
    """Three digits that mean something, without an exponent where it can be helped."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _number_lines(sheet: Canvas, grid: _Grid) -> None:
    """The numbers of rows and columns, as many as there is room for."""
    row_step = _label_step(grid.cell_px, needed_px=18.0)
    column_step = _label_step(grid.cell_px, needed_px=30.0)
    half = grid.cell_px / 2
    for row in range(0, grid.rows, row_step):
        y = grid.place(row, 0).y + half
        sheet.text(y, _LEFT_PX - 8, str(row + grid.first_row), align="right")
    for column in range(0, grid.columns, column_step):
        x = grid.place(0, column).x + half
        sheet.text(_HEAD_PX - 11, x, str(column + grid.first_column), align="centre")
    sheet.text(_HEAD_PX - 11, _LEFT_PX - 8, "row/col", height=10, align="right")


def _label_step(cell_px: float, *, needed_px: float) -> int:
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    return next((step for step in steps if step * cell_px >= needed_px), 1000)


def _draw_cell(
    sheet: Canvas, cell: _Cell, value: float | None, *, scale: _Scale
) -> None:
    side = cell.side_px
    inner = side - (1.0 if side >= 6.0 else 0.0)  # white lines between large cells
    fill = canvas.PALE if value is None else scale.colour(value)
    sheet.rectangle(cell.y, cell.x, height=inner, width=inner, fill=fill)
    middle = (cell.y + side / 2, cell.x + side / 2)
    if value is None:
        sheet.cross(middle, colour=canvas.RED, size=side * 0.25, width=1.0)
    elif side >= _READABLE_PX:
        bright = np.dot(fill, (0.299, 0.587, 0.114)) > 140.0
        ink = canvas.INK if bright else canvas.WHITE
        sheet.text(*middle, _number(value), colour=ink, align="centre")


def _draw_bar(
    sheet: Canvas, scale: _Scale, *, left_px: float, height_px: float
) -> None:
    x, width = left_px, 20
    stripes = int(height_px)
    for i in range(stripes):
        share = 1.0 - i / max(1, stripes - 1)
        value = scale.low + share * (scale.high - scale.low)
        colour = scale.colour(value)
        sheet.rectangle(_HEAD_PX + i, x, height=1, width=width, fill=colour)
    for i in range(5):
        value = scale.low + i / 4 * (scale.high - scale.low)
        y = _HEAD_PX + (1.0 - i / 4) * (stripes - 1)
        sheet.line((y, x + width), (y, x + width + 5), colour=canvas.INK)
        sheet.text(y, x + width + 10, _number(value))
