"""What no message brought about a montage, measured from its frames.

A killed broker, or a restart without a recorder, loses messages; the frames are there.
"""

import logging
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.live_products import processed_tile
from em_platform.acquisition.montage_fit.growing import (
    Growing,
    GrowingTile,
    as_montage,
    tile_matches,
)
from em_platform.config.stitching import MatchSettings
from em_platform.errors import DataError
from em_platform.model import Montage, Size, TileMatch
from em_platform.stitching.match import match_block
from em_platform.stitching.neighbours import find_neighbours
from em_platform.stitching.recipe import TileRecipe
from em_platform.stitching.tile_images import TileImages

log = logging.getLogger(__name__)

_MOST_PAIRS = 500
"""More than that is not a restart of ours: then the pipeline did not work."""

_MINI_PX = 64


def match_missed(
    montage: Montage,
    received: tuple[TileMatch, ...],
    *,
    settings: MatchSettings,
    recipe: TileRecipe,
) -> tuple[TileMatch, ...]:
    """All matches of a montage: those received, and the others measured.

    Within the valid box of the recipe and with its lens, as the pipeline does.
    """
    known = {(match.a, match.b) for match in received}
    known |= {(b, a) for a, b in known}
    pairs = [
        pair
        for pair in find_neighbours(montage, min_overlap_px=settings.min_overlap_px)
        if (pair.a.tile_id, pair.b.tile_id) not in known
        if Path(pair.a.uri).is_file() and Path(pair.b.uri).is_file()
    ]
    if not pairs:
        return received
    if len(pairs) > _MOST_PAIRS:
        log.warning(
            "montage fit: the matches of %d pairs of %s were missed, at most %d are "
            "measured here; see that the pipeline runs",
            len(pairs),
            montage.acquisition_id,
            _MOST_PAIRS,
        )
        return received
    log.info(
        "montage fit: %d pairs of %s were missed and are measured",
        len(pairs),
        montage.acquisition_id,
    )
    made = match_block(
        tuple(pairs),
        images=TileImages(valid_box=recipe.valid_box),
        settings=settings,
        lens=recipe.lens,
    )
    return (*received, *made)


def fill_in_pictures(growing: Growing, recipe: TileRecipe) -> None:
    """Minis and focus of tiles of which they were missed, from their frames."""
    for tile in growing.tiles.values():
        if tile.path and (not tile.mini or tile.focus is None):
            _fill_in(tile, recipe)


def _fill_in(tile: GrowingTile, recipe: TileRecipe) -> None:
    try:
        done = processed_tile(tile.path, tile.tile_id, recipe)
    except DataError as error:
        log.warning("%s", error)
        return
    if tile.focus is None:
        tile.focus = done.stats.focus
    if not tile.mini:
        tile.mini = _mini(done.image)


def _mini(image: NDArray[np.uint8]) -> bytes:
    scale = min(1.0, _MINI_PX / max(image.shape))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", small)
    return content.tobytes()


def whole_montage(
    growing: Growing,
    size: Size,
    *,
    microscope: str,
    settings: MatchSettings,
    recipe: TileRecipe,
) -> tuple[Montage, tuple[TileMatch, ...]]:
    """The montage and its matches when it is complete; what was missed is measured."""
    fill_in_pictures(growing, recipe)
    montage = as_montage(growing, size, microscope=microscope)
    received = tile_matches(growing, montage)
    return montage, match_missed(montage, received, settings=settings, recipe=recipe)
