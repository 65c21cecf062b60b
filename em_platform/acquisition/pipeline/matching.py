"""How a tile lies against the neighbours that were imaged before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from em_platform.acquisition.pipeline.journaled import JournaledTile
from em_platform.acquisition.raster import OFF_RASTER, image_position
from em_platform.config.stitching import MatchSettings
from em_platform.errors import DataError
from em_platform.imaging.register import PatchShifts
from em_platform.model import LensModel, Shift, Size, Tile, TileMatch
from em_platform.stitching.match import Measured, as_match, measure_pair
from em_platform.stitching.neighbours import Neighbours, Strip, StripReader, as_pair
from em_platform.stitching.tile_images import TileImages

Corner = tuple[int, int]
Remake = Callable[[JournaledTile], object]
"""Makes the processed frame of a tile again from its raw one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPair:
    """A tile against one neighbour; `pair.a` is the neighbour, `pair.b` the tile.

    `a` and `b` are the corners `(y, x)` of the strips that were compared. `kept` is the
    pair as all others have it, the upper or left tile first; `nominal` of that.
    """

    kept: TileMatch
    nominal: Shift
    neighbour: JournaledTile
    pair: Neighbours
    found: Measured
    a: tuple[int, int] = (0, 0)
    b: tuple[int, int] = (0, 0)


def measure_neighbours(
    tile: JournaledTile,
    neighbours: Sequence[JournaledTile],
    *,
    settings: MatchSettings,
    pixel_nm: float,
    rotation_rad: float = 0.0,
    lens: LensModel | None = None,
    remake: Remake,
) -> list[MeasuredPair]:
    """Measure a tile against each neighbour, with what Dagster measures by, too.

    A pair that cannot be measured has the reason. A processed frame that cannot be read
    is made again once.
    """
    act = partial(
        _measure,
        tile,
        settings=settings,
        pixel_nm=pixel_nm,
        rotation_rad=rotation_rad,
        lens=lens,
        remake=remake,
    )
    return [act(neighbour) for neighbour in neighbours]


def nominal_shifts(
    tile: JournaledTile,
    neighbour: JournaledTile,
    *,
    pixel_nm: float,
    rotation_rad: float = 0.0,
) -> tuple[Shift, ...]:
    """Where the tile's corner should lie from the neighbour's, `(y, x)` px.

    By the stage's positions first, then by row, column and overlap. What the stage says
    is left out where it is not known or is half a tile off the raster: then pixel size
    or rotation are not what the settings say.
    """
    shape = tile.shape or neighbour.shape
    # Neither could be read: nothing is measured then, so that any size will do.
    size = shape.size if shape else Size(height_px=1, width_px=1)
    shared = int(tile.body["overlap"])
    down = tile.place[0] - neighbour.place[0]
    right = tile.place[1] - neighbour.place[1]
    by_raster = Shift(
        dy_px=float(down * (size.height_px - shared)),
        dx_px=float(right * (size.width_px - shared)),
    )
    here = tile.body.get("stage_position")
    there = neighbour.body.get("stage_position")
    if here is None or there is None:
        return (by_raster,)
    dy, dx = image_position(
        here[0] - there[0],
        here[1] - there[1],
        pixel_nm=pixel_nm,
        rotation_rad=rotation_rad,
    )
    off_y = abs(dy - by_raster.dy_px) / size.height_px
    off_x = abs(dx - by_raster.dx_px) / size.width_px
    # The stage is not that far off; the settings are.
    if max(off_y, off_x) > OFF_RASTER:
        return (by_raster,)
    return Shift(dy_px=dy, dx_px=dx), by_raster


def _measure(
    tile: JournaledTile,
    neighbour: JournaledTile,
    *,
    settings: MatchSettings,
    pixel_nm: float,
    rotation_rad: float,
    lens: LensModel | None,
    remake: Remake,
) -> MeasuredPair:
    """By the first nominal shift from which the tiles are found to match."""
    shifts = nominal_shifts(
        tile, neighbour, pixel_nm=pixel_nm, rotation_rad=rotation_rad
    )
    measure = partial(
        _measure_from, tile, neighbour, settings=settings, lens=lens, remake=remake
    )
    first = measure(nominal=shifts[0])
    away = max(
        abs(shifts[-1].dy_px - shifts[0].dy_px), abs(shifts[-1].dx_px - shifts[0].dx_px)
    )
    # A search from the raster looks elsewhere only where the two are well apart.
    if not first.found.reason or away < settings.search_px / 2:
        return first
    second = measure(nominal=shifts[-1])
    # All others ask from the first nominal shift; what was found from the second holds.
    return first if second.found.reason else replace(second, nominal=first.nominal)


def _measure_from(
    tile: JournaledTile,
    neighbour: JournaledTile,
    *,
    nominal: Shift,
    settings: MatchSettings,
    lens: LensModel | None,
    remake: Remake,
) -> MeasuredPair:
    own = _as_tile(tile, y_px=nominal.dy_px, x_px=nominal.dx_px)
    pair = as_pair(_as_tile(neighbour, y_px=0.0, x_px=0.0), own)
    unread = [t.tile_id for t in (neighbour, tile) if t.shape is None]
    if unread:
        found = Measured(reason=f"the frame of {unread[0]} could not be read")
        return _as_measured(tile, neighbour, pair, found, lens=lens)
    try:
        a, b = _strips(tile, pair, reach_px=settings.search_px)
    # Processed frames are not forced to the disk: a power cut may tear them.
    except DataError:
        try:
            # Which of the two is torn is not known.
            for each in (neighbour, tile):
                remake(each)
            a, b = _strips(tile, pair, reach_px=settings.search_px)
        except DataError as error:
            found = Measured(reason=str(error))
            return _as_measured(tile, neighbour, pair, found, lens=lens)
    found = measure_pair(pair, a, b=b, settings=settings)
    corners = a.corner, b.corner
    return _as_measured(tile, neighbour, pair, found, lens=lens, corners=corners)


def _strips(
    tile: JournaledTile, pair: Neighbours, *, reach_px: int
) -> tuple[Strip, Strip]:
    images = TileImages(valid_box=None if tile.shape is None else tile.shape.valid)
    return StripReader((pair,), images, reach_px=reach_px).take(pair)


def _as_measured(
    tile: JournaledTile,
    neighbour: JournaledTile,
    pair: Neighbours,
    found: Measured,
    *,
    lens: LensModel | None,
    corners: tuple[Corner, Corner] = ((0, 0), (0, 0)),
) -> MeasuredPair:
    """The neighbour as `a`, wherever it lies, so that templates are the tile's own.

    What was measured is the same for both: the upper or left tile is always searched,
    as in Dagster, and the message's view of it follows.
    """
    a, b = corners
    kept, nominal = as_match(pair, found, lens=lens), pair.nominal
    # `as_pair` has put the upper or left tile first, whichever was captured.
    if pair.b.tile_id == tile.tile_id:
        return MeasuredPair(
            neighbour=neighbour,
            pair=pair,
            found=found,
            a=a,
            b=b,
            kept=kept,
            nominal=nominal,
        )
    back = Shift(dy_px=-pair.nominal.dy_px, dx_px=-pair.nominal.dx_px)
    return MeasuredPair(
        neighbour=neighbour,
        pair=replace(pair, a=pair.b, b=pair.a, nominal=back),
        found=replace(
            found,
            shift=None if found.shift is None else (-found.shift[0], -found.shift[1]),
            a_points=found.b_points,
            b_points=found.a_points,
            patches=None if found.patches is None else _turned(found.patches),
        ),
        a=b,
        b=a,
        kept=kept,
        nominal=nominal,
    )


def _turned(patches: PatchShifts) -> PatchShifts:
    """As if the patches were of `a` and had been sought in windows of `b`."""
    tall, wide = patches.size
    sides = patches.windows[:, 2:] - patches.windows[:, :2]
    # Seen from the other tile each shift changes its sign: places are mirrored.
    places = sides - (tall, wide) - patches.places
    # Patches are cut at whole pixels: this only undoes their centres.
    corners = np.rint(patches.b_points - (np.array(patches.size) - 1) / 2.0)
    starts = corners.astype(np.int64) - places
    return replace(
        patches,
        a_points=patches.b_points,
        b_points=patches.a_points,
        windows=np.concatenate([starts, starts + sides], axis=1),
        places=places,
    )


def _as_tile(tile: JournaledTile, *, y_px: float, x_px: float) -> Tile:
    return Tile(
        tile_id=tile.tile_id,
        uri=tile.processed_path,
        row=tile.place[0],
        column=tile.place[1],
        y_px=y_px,
        x_px=x_px,
        size=tile.shape.size if tile.shape else Size(height_px=1, width_px=1),
    )
