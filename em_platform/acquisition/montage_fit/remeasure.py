"""What is measured from frames: matches nobody published, and the lens."""

import base64
import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.live_products import processed_tile
from em_platform.acquisition.montage_fit.growing import (
    GrowingTile,
    LiveMontage,
    as_montage,
    tile_matches,
)
from em_platform.config.stitching import MatchSettings, StitchingSettings
from em_platform.errors import DataError, PlatformError
from em_platform.imaging.lens import undistort_points
from em_platform.messaging.topics import Body
from em_platform.model import LensModel, Montage, Size, TileMatch
from em_platform.stitching.lens import check_lens, fit_lens
from em_platform.stitching.match import match_block, match_pairs
from em_platform.stitching.neighbours import find_neighbours
from em_platform.stitching.recipe import TileRecipe, choose_recipe
from em_platform.stitching.recipe_file import recipe_beside
from em_platform.stitching.tile_images import TileImages

log = logging.getLogger(__name__)

_MOST_PAIRS = 500
"""More than that is not a restart of ours: then the pipeline did not work."""

# About as the pipeline makes of a 2048 px frame (`mini_scale` 0.03).
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


def fill_in_pictures(growing: LiveMontage, recipe: TileRecipe) -> None:
    """Minis and focus of tiles of which they were missed, from their frames."""
    for tile in growing.tiles.values():
        if tile.path and (not tile.mini or tile.focus is None):
            _fill_in(tile, recipe)


def _fill_in(tile: GrowingTile, recipe: TileRecipe) -> None:
    try:
        done = processed_tile(tile.path, tile.tile_id, recipe)
    except DataError as error:  # without a picture it is not drawn; the fit needs none
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
    growing: LiveMontage,
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


MAX_SCALE = 0.1
"""How far from 1 the field may scale the frame in a good solve, as in em_stitch."""

PATCHES = 40
"""Of each pair, at least: a lens bends within an overlap, a place does not."""

_GRID = 9  # Points a side: the scale is a mean over a smooth field


@dataclass(frozen=True, slots=True, kw_only=True)
class LensResult:
    """A lens model, or the published `reason` why none can be used."""

    model: LensModel | None
    reason: str = ""

    def message(self, montage_id: str) -> Body:
        """The fields of `lens_correction.transform`."""
        fields = {"montage_id": montage_id, "ok": not self.reason}
        if self.model is None:
            return fields | {"transform": ""}
        return fields | {
            "transform": transform_of(self.model),
            "residual_mean_px": self.model.residual_mean_px,
            "residual_std_px": self.model.residual_std_px,
            "n_matches": self.model.points,
        }


def measure_lens(
    montage: Montage, *, settings: StitchingSettings, magnification: int
) -> LensResult:
    """Match the frames, fit the field, judge it; never raises for bad frames."""
    try:
        recipe = recipe_beside(montage) or choose_recipe(montage, settings.tile)
        images = recipe.images()
        many = max(PATCHES, settings.match.patches)
        match = settings.match.model_copy(update={"patches": many})
        matches = match_pairs(montage, images, settings=match)
        model = fit_lens(montage, matches, magnification=magnification)
    except (PlatformError, np.linalg.LinAlgError) as error:
        # LinAlgError: the points leave the field open; the set is imaged again
        return LensResult(model=None, reason=str(error))
    return judge_lens(model)


def judge_lens(model: LensModel) -> LensResult:
    """Good where the residuals and the scale are within em_stitch's limits."""
    failed = [check.sentence for check in check_lens(model) if not check.passed]
    scale = field_scale(model)
    if abs(scale - 1.0) > MAX_SCALE:
        failed.append(
            f"lens of {model.microscope} at {model.magnification} x: the field scales "
            f"the frame by {scale:.3f}, {1 - MAX_SCALE:g} to {1 + MAX_SCALE:g} expected"
        )
    reason = "; ".join(failed)
    if reason:
        reason += "; image the set again, with more texture and 60 % overlap"
    return LensResult(model=model, reason=reason)


def field_scale(model: LensModel) -> float:
    """By how much the corrected frame is larger than the raw one, over the field."""
    size = model.size
    ys = np.linspace(0.0, size.height_px - 1.0, _GRID)
    xs = np.linspace(0.0, size.width_px - 1.0, _GRID)
    raw = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)
    corrected = undistort_points(model, raw)
    raw, corrected = raw - raw.mean(axis=0), corrected - corrected.mean(axis=0)
    # The least-squares scale of one cloud of points onto the other.
    return float((raw * corrected).sum() / (raw * raw).sum())


def transform_of(model: LensModel) -> str:
    """Base64 of the model's JSON: `em_platform.model.LensModel`."""
    return base64.b64encode(model.model_dump_json().encode()).decode("ascii")
