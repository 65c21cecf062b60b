"""Two pictures of a montage that a person understands at a glance, as PNG files."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from em_platform.model import Montage, MontageFit, TileMatch, TilePlacement
from em_platform.stitching.closure import in_montage, residuals_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Red, green, blue, 0..255.
Colour = tuple[int, int, int]
FAINT: Colour = (134, 142, 150)
PALE: Colour = (233, 236, 239)
RED: Colour = (214, 40, 40)
ORANGE: Colour = (247, 157, 57)
BLUE: Colour = (28, 94, 171)

# As wide as the page of Dagster shows a picture without shrinking it.
WIDTH_PX = 900
# Matplotlib thinks in inches; with 100 a pixel is a hundredth of one.
_DPI = 100
_MARGIN_PX = 24.0
# Title, subtitle and columns' numbers; rows' numbers; colour bar with its numbers.
_MAP_HEAD_PX, _MAP_LEFT_PX, _BAR_PX = 92.0, 62.0, 120.0
# Of the drawing at most: a screen shows it whole.
_MAP_HEIGHT_PX, _FIT_HEIGHT_PX = 900.0, 820.0
_FIT_HEAD_PX, _LEGEND_PX = 72.0, 48.0
_MAX_CELL_PX = 140.0
# A cell or tile at least so large has room for its figures.
_READABLE_PX = 44.0
# Length of an arrow of the legend's unit: arrows of neighbours must not meet.
_MAX_ARROW_PX, _ARROW_OF_TILE = 60.0, 0.35


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
    rows = [tile.row for tile in montage.tiles] or [0]
    columns = [tile.column for tile in montage.tiles] or [0]
    top, left = min(rows), min(columns)
    grid = np.full((max(rows) - top + 1, max(columns) - left + 1), np.nan)
    for tile in montage.tiles:
        grid[tile.row - top, tile.column - left] = values.get(tile.tile_id, np.nan)
    height, width = grid.shape
    room = WIDTH_PX - _MAP_LEFT_PX - _BAR_PX - _MARGIN_PX
    cell_px = min(_MAX_CELL_PX, room / width, _MAP_HEIGHT_PX / height)
    bar_px = max(height * cell_px, 140.0)
    figure = _figure(_MAP_HEAD_PX + bar_px + _MARGIN_PX, title, _range(montage, values))
    box = (_MAP_HEAD_PX, _MAP_LEFT_PX, height * cell_px, width * cell_px)
    axes = _axes(figure, box)
    low = min([0.0, *values.values()])
    high = max([low, *values.values()])
    mesh = axes.pcolormesh(
        np.arange(left, left + width + 1) - 0.5,
        np.arange(top, top + height + 1) - 0.5,
        np.ma.masked_invalid(grid),
        vmin=low,
        vmax=high if high > low else low + 1.0,
        edgecolors="white",
        linewidth=0.7 if cell_px >= 6 else 0.0,  # lines would cover smaller cells
    )
    axes.set_facecolor(_rgb(PALE))
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.locator_params(integer=True, steps=[1, 2, 5, 10])
    lost = np.argwhere(np.isnan(grid)) + np.array([top, left], float)
    _crosses(axes, lost, size_px=cell_px / 2)
    if cell_px >= _READABLE_PX:
        for (row, column), value in np.ndenumerate(grid):
            if not math.isnan(value):
                # How bright a colour looks: luma of ITU-R BT.601.
                bright = np.dot(mesh.to_rgba(value)[:3], (0.299, 0.587, 0.114)) > 0.55
                place = (column + left, row + top)
                ink = "black" if bright else "white"
                axes.annotate(
                    _number(value), place, color=ink, ha="center", va="center"
                )
    right = _MAP_LEFT_PX + width * cell_px + 20
    figure.colorbar(mesh, cax=_axes(figure, (_MAP_HEAD_PX, right, bar_px, 20.0)))
    return _png(figure)


def residual_plot(montage: Montage, fit: MontageFit) -> bytes:
    """Tiles as fitted, and at each seam how far its match is from the fit.

    An arrow is the measured shift minus that of the fit, enlarged as the legend says.
    Rejected matches are red; tiles that no match connects are orange.

    Returns
    -------
    bytes
        PNG, 900 px wide.
    """
    from matplotlib.collections import PolyCollection

    sizes = {tile.tile_id: tile.size for tile in montage.tiles}
    places = {p.tile_id: p for p in fit.placements if p.tile_id in sizes}
    outlines = {
        name: in_montage(p, _corners(sizes[name].height_px, sizes[name].width_px))
        for name, p in places.items()
    }
    every = np.concatenate([*outlines.values()] or [np.array([[0.0, 0.0], [1.0, 1.0]])])
    low, span = every.min(axis=0), np.ptp(every, axis=0) + 1e-9
    zoom = min((WIDTH_PX - 2 * _MARGIN_PX) / span[1], _FIT_HEIGHT_PX / span[0])
    height, width = (zoom * span).tolist()
    figure = _figure(
        _FIT_HEAD_PX + height + _LEGEND_PX,
        "Residuals of the montage fit",
        _fit_summary(fit),
    )
    axes = _axes(figure, (_FIT_HEAD_PX, (WIDTH_PX - width) / 2, height, width))
    axes.set(xlim=(low[1], low[1] + span[1]), ylim=(low[0] + span[0], low[0]))
    axes.axis("off")
    fills = [PALE if p.component == 0 else ORANGE for p in places.values()]
    axes.add_collection(
        PolyCollection(
            [outline[:, ::-1] for outline in outlines.values()],
            facecolors=[_rgb(fill) for fill in fills],
            edgecolors=[_rgb(FAINT)],
            linewidths=0.8,
            clip_on=False,
        )
    )
    tile_px = zoom * min(montage.tile_size.height_px, montage.tile_size.width_px)
    centres = {name: outline.mean(axis=0) for name, outline in outlines.items()}
    if tile_px >= _READABLE_PX:
        for tile in montage.tiles:
            if tile.tile_id in centres:
                y, x = centres[tile.tile_id].tolist()
                text = f"{tile.row}, {tile.column}"
                axes.annotate(text, (x, y), ha="center", va="center", fontsize=8)
    shown = [m for m in fit.matches if m.a in places and m.b in places]
    rejected = [(centres[m.a], centres[m.b]) for m in shown if not m.kept]
    _draw_rejected(axes, rejected, cross_px=max(4.0, min(12.0, 0.16 * tile_px)))
    kept = [m for m in shown if m.kept]
    arrow_px = max(8.0, min(_ARROW_OF_TILE * tile_px, _MAX_ARROW_PX))
    _draw_arrows(
        figure,
        axes,
        np.array([(centres[m.a] + centres[m.b]) / 2 for m in kept]).reshape(-1, 2),
        np.array([_residual(m, places) for m in kept]).reshape(-1, 2),
        arrow=arrow_px / zoom,
    )
    _draw_legend(figure)
    return _png(figure)


def _figure(height_px: float, title: str, subtitle: str) -> "Figure":
    # A third of a second to import: only where a picture is drawn. A `Figure` without
    # pyplot has no display and no global state, so that threads may draw.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_PX / _DPI, round(height_px) / _DPI), dpi=_DPI)
    for at_px, text, size, colour in ((26, title, 14, "black"), (50, subtitle, 9, "#")):
        figure.text(
            _MARGIN_PX / WIDTH_PX,
            1 - at_px / round(height_px),
            text,
            fontsize=size,
            color=_rgb(FAINT) if colour == "#" else colour,
            va="center",
            # A $ in a name begins no formula.
            parse_math=False,
        )
    return figure


def _axes(figure: "Figure", box: tuple[float, float, float, float]) -> "Axes":
    """Axes at `(top, left, height, width)` in pixels of the picture."""
    top, left, height, width = box
    whole = figure.get_figheight() * _DPI
    axes = figure.add_axes(
        (left / WIDTH_PX, 1 - (top + height) / whole, width / WIDTH_PX, height / whole)
    )
    axes.tick_params(labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _crosses(axes: "Axes", places: NDArray[np.float64], *, size_px: float) -> None:
    ys, xs = places.T
    points = size_px * 72 / _DPI  # matplotlib's markers are in points, 72 an inch
    axes.plot(xs, ys, "x", color=_rgb(RED), markersize=points, markeredgewidth=1.2)


def _draw_rejected(
    axes: "Axes",
    ends: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    *,
    cross_px: float,
) -> None:
    """A crossed line between the centres of the two tiles of each rejected match."""
    from matplotlib.collections import LineCollection

    # The middle half: the numbers at the tiles' centres stay readable.
    lines = [(0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b) for a, b in ends]
    segments = [np.array(line)[:, ::-1] for line in lines]
    axes.add_collection(LineCollection(segments, colors=[_rgb(RED)], linewidths=1.4))
    middles = np.array([(a + b) / 2 for a, b in ends]).reshape(-1, 2)
    _crosses(axes, middles, size_px=cross_px)


def _draw_arrows(
    figure: "Figure",
    axes: "Axes",
    starts: NDArray[np.float64],
    residuals: NDArray[np.float64],
    *,
    arrow: float,
) -> None:
    """Residuals at the seams; one of the legend's unit is `arrow` montage px long."""
    if not len(residuals):
        return
    unit_px = _unit_px(np.hypot(*residuals.T).tolist())
    (ys, xs), (dy, dx) = starts.T, residuals.T
    arrows = axes.quiver(
        *(xs, ys, dx, dy),
        angles="xy",
        scale_units="xy",
        scale=unit_px / arrow,
        units="dots",
        width=1.8,
        headwidth=5,
        headlength=5,
        minlength=1.5,
        color=_rgb(BLUE),
    )
    axes.quiverkey(
        arrows,
        *(0.1, _LEGEND_PX / 2 / (figure.get_figheight() * _DPI), unit_px),
        label=f"{unit_px:g} px: measured minus fitted shift",
        labelpos="E",
        coordinates="figure",
    )


def _draw_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure.legend(
        handles=[
            Line2D([], [], color=_rgb(RED), marker="x", label="rejected match"),
            Patch(color=_rgb(ORANGE), label="tile without a match"),
        ],
        loc="lower right",
        ncols=2,
        frameon=False,
        fontsize=9,
    )


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _rgb(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _residual(
    match: TileMatch, places: Mapping[str, TilePlacement]
) -> NDArray[np.float64]:
    """`(y, x)` px from where the fit has tile b to where its match has it."""
    a, b = places[match.a], places[match.b]
    if not match.a_points:
        shift = (match.shift.dy_px, match.shift.dx_px)
        return np.array([a.y_px + shift[0] - b.y_px, a.x_px + shift[1] - b.x_px])
    there = in_montage(a, np.asarray(match.a_points))
    here = in_montage(b, np.asarray(match.b_points))
    return np.asarray(np.median(there - here, axis=0))


def _corners(height_px: float, width_px: float) -> NDArray[np.float64]:
    return np.array(
        [(0, 0), (0, width_px), (height_px, width_px), (height_px, 0)], float
    )


def _unit_px(lengths: Sequence[float]) -> float:
    """A round number that most residuals do not exceed: 0.01, 0.02, 0.05, 0.1 ..."""
    # A few large ones may be longer, but by three times at most.
    length = max(0.01, float(np.percentile(lengths, 90)), max(lengths) / 3)
    # 1e-9: log10 of a round number may fall just below the whole one.
    decade = 10.0 ** math.floor(math.log10(length) + 1e-9)
    return next(s * decade for s in (1, 2, 5, 10) if s * decade >= length * 0.999)


def _range(montage: Montage, values: Mapping[str, float]) -> str:
    text = f"{montage.acquisition_id}: {_count(len(montage.tiles), 'tile')}"
    missing = montage.expected_tiles - len(montage.tiles)
    if missing > 0:
        text += f", {missing} missing"
    if values:
        found = list(values.values())
        figures = (min(found), float(np.median(found)), max(found))
        text += "; minimum {}, median {}, maximum {}".format(*map(_number, figures))
    return text


def _fit_summary(fit: MontageFit) -> str:
    text = (
        f"{fit.acquisition_id}: {_count(len(fit.placements), 'tile')}, "
        f"{residuals_of(fit)}"
    )
    rejected = sum(not match.kept for match in fit.matches)
    if rejected:
        text += f"; {rejected} rejected"
    loose = sum(place.component != 0 for place in fit.placements)
    if loose:
        text += f"; {_count(loose, 'tile')} without a match"
    return text


def _number(value: float) -> str:
    """Three digits that mean something, without an exponent where it can be helped."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
