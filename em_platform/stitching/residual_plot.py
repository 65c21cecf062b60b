"""Where the fitted tiles lie, and what each match would rather have."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from em_platform.model import Montage, MontageFit, TileMatch, TilePlacement
from em_platform.stitching import canvas
from em_platform.stitching.canvas import WIDTH_PX, Canvas, count
from em_platform.stitching.closure import in_montage, residuals_of

Array = NDArray[np.float64]

_HEIGHT_PX = 820.0  # of the drawing, at most
_HEAD_PX, _LEGEND_PX, _MARGIN_PX = 72.0, 48.0, 24.0
_ARROW_OF_TILE = 0.35  # length of the legend's arrow, in tiles
_MAX_ARROW_PX = 60.0
_READABLE_PX = 60.0  # a tile at least so large shows its row and column


def residual_plot(montage: Montage, fit: MontageFit) -> bytes:
    """Tiles as fitted, and at each seam how far its match is from the fit.

    An arrow is the measured shift minus that of the fit, enlarged as the legend says.
    Matches that were left out are red; tiles that no match holds are orange.

    Returns
    -------
    bytes
        PNG, 900 px wide.
    """
    plan = _Plan.of(montage, fit)
    sheet = Canvas(round(_HEAD_PX + plan.height_px + _LEGEND_PX), WIDTH_PX)
    for place in fit.placements:
        _draw_tile(sheet, plan, place)
    kept = [match for match in fit.matches if match.kept and plan.has(match)]
    for match in fit.matches:
        if not match.kept and plan.has(match):
            _draw_left_out(sheet, plan, match)
    arrows = [plan.residual(match) for match in kept]
    lengths = [float(np.hypot(*arrow)) for arrow in arrows]
    unit_px = _unit_px(lengths)
    for match, arrow in zip(kept, arrows, strict=True):
        start = plan.middle(match)
        dy, dx = arrow * plan.arrow_px / unit_px
        sheet.arrow(start, (start[0] + dy, start[1] + dx), colour=canvas.BLUE)
    sheet.head("Residuals of the montage fit", _summary(fit))
    _draw_legend(sheet, plan, unit_px=unit_px)
    return sheet.png()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The montage at the scale of the picture."""

    montage: Montage
    outlines: dict[str, Array]
    places: dict[str, TilePlacement]
    zoom: float
    height_px: float
    tile_px: float

    @classmethod
    def of(cls, montage: Montage, fit: MontageFit) -> "_Plan":
        sizes = {tile.tile_id: tile.size for tile in montage.tiles}
        places = {p.tile_id: p for p in fit.placements if p.tile_id in sizes}
        world = {
            name: in_montage(
                place, _corners(sizes[name].height_px, sizes[name].width_px)
            )
            for name, place in places.items()
        }
        every = np.concatenate(
            [*world.values()] or [np.array([[0.0, 0.0], [1.0, 1.0]])]
        )
        low, span = every.min(axis=0), np.ptp(every, axis=0) + 1e-9
        zoom = min((WIDTH_PX - 2 * _MARGIN_PX) / span[1], _HEIGHT_PX / span[0])
        left = (WIDTH_PX - zoom * span[1]) / 2
        size = montage.tile_size
        return cls(
            montage=montage,
            outlines={n: (c - low) * zoom + (_HEAD_PX, left) for n, c in world.items()},
            places=places,
            zoom=zoom,
            height_px=zoom * float(span[0]),
            tile_px=zoom * min(size.height_px, size.width_px),
        )

    @property
    def arrow_px(self) -> float:
        """How long an arrow of the legend's unit is drawn."""
        return max(8.0, min(_ARROW_OF_TILE * self.tile_px, _MAX_ARROW_PX))

    def has(self, match: TileMatch) -> bool:
        return match.a in self.places and match.b in self.places

    def centre(self, tile_id: str) -> tuple[float, float]:
        y, x = self.outlines[tile_id].mean(axis=0).tolist()
        return y, x

    def middle(self, match: TileMatch) -> tuple[float, float]:
        """The middle of the seam."""
        (y0, x0), (y1, x1) = self.centre(match.a), self.centre(match.b)
        return (y0 + y1) / 2, (x0 + x1) / 2

    def residual(self, match: TileMatch) -> Array:
        """`(y, x)` px from where the fit has tile b to where its match has it."""
        a, b = self.places[match.a], self.places[match.b]
        if not match.a_points:
            shift = (match.shift.dy_px, match.shift.dx_px)
            return np.array([a.y_px + shift[0] - b.y_px, a.x_px + shift[1] - b.x_px])
        there = in_montage(a, np.asarray(match.a_points))
        here = in_montage(b, np.asarray(match.b_points))
        return np.asarray(np.median(there - here, axis=0))


def _corners(height_px: float, width_px: float) -> Array:
    return np.array(
        [(0, 0), (0, width_px), (height_px, width_px), (height_px, 0)], float
    )


def _draw_tile(sheet: Canvas, plan: _Plan, place: TilePlacement) -> None:
    if place.tile_id not in plan.outlines:
        return
    fill = canvas.PALE if place.component == 0 else canvas.ORANGE
    sheet.outline(plan.outlines[place.tile_id], canvas.FAINT, fill=fill)
    if plan.tile_px >= _READABLE_PX:
        tile = next(t for t in plan.montage.tiles if t.tile_id == place.tile_id)
        name = f"{tile.row}, {tile.column}"
        sheet.text(*plan.centre(tile.tile_id), name, height=11, align="centre")


def _draw_left_out(sheet: Canvas, plan: _Plan, match: TileMatch) -> None:
    (y0, x0), (y1, x1) = plan.centre(match.a), plan.centre(match.b)
    quarter = (0.75 * y0 + 0.25 * y1, 0.75 * x0 + 0.25 * x1)
    three = (0.25 * y0 + 0.75 * y1, 0.25 * x0 + 0.75 * x1)
    sheet.line(quarter, three, colour=canvas.RED, width=2.0)
    size = max(2.0, min(6.0, 0.08 * plan.tile_px))
    sheet.cross(plan.middle(match), colour=canvas.RED, size=size, width=2.0)


def _unit_px(lengths: list[float]) -> float:
    """A round number that most residuals do not exceed: 0.01, 0.02, 0.05, 0.1 ..."""
    if not lengths:
        return 1.0
    length = max(0.01, float(np.percentile(lengths, 90)), max(lengths) / 3)
    decade = 10.0 ** math.floor(math.log10(length) + 1e-9)
    return next(s * decade for s in (1, 2, 5, 10) if s * decade >= length * 0.999)


def _summary(fit: MontageFit) -> str:
    left_out = sum(not match.kept for match in fit.matches)
    loose = sum(place.component != 0 for place in fit.placements)
    text = (
        f"{fit.acquisition_id}: {count(len(fit.placements), 'tile')}, "
        f"{residuals_of(fit)}"
    )
    if left_out:
        text += f"; {left_out} left out"
    if loose:
        text += f"; {count(loose, 'tile')} without a match"
    return text


def _draw_legend(sheet: Canvas, plan: _Plan, *, unit_px: float) -> None:
    y = _HEAD_PX + plan.height_px + _LEGEND_PX / 2
    x, end = _MARGIN_PX, _MARGIN_PX + plan.arrow_px
    sheet.arrow((y, x), (y, end), colour=canvas.BLUE)
    sheet.text(y, end + 8, f"{unit_px:g} px: measured minus fitted shift")
    x = WIDTH_PX * 0.48
    sheet.line((y, x), (y, x + 28), colour=canvas.RED, width=2.0)
    sheet.cross((y, x + 14), colour=canvas.RED, size=5, width=2.0)
    sheet.text(y, x + 36, "match left out")
    x = WIDTH_PX * 0.72
    sheet.rectangle(y - 8, x, height=16, width=16, fill=canvas.ORANGE)
    sheet.text(y, x + 24, "tile without a match")
