"""The lens, measured from the frames of a montage that was imaged for it."""

import base64
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from em_platform.config.stitching import StitchingSettings
from em_platform.errors import PlatformError
from em_platform.imaging.lens import undistort_points
from em_platform.model import LensModel, Montage
from em_platform.stitching.lens import check_lens, fit_lens
from em_platform.stitching.match import match_pairs
from em_platform.stitching.recipe import choose_recipe
from em_platform.stitching.recipe_file import recipe_beside

log = logging.getLogger(__name__)

MAX_SCALE = 0.1
"""How far from 1 the field may scale the frame in a good solve, as in em_stitch."""

PATCHES = 40
"""Of each pair, at least: a lens bends within an overlap, a place does not."""

_GRID = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class LensResult:
    """A lens model, or the published `reason` why none can be used."""

    model: LensModel | None
    reason: str = ""

    def message(self, montage_id: str) -> dict[str, Any]:
        """The fields of `lens_correction.transform`."""
        fields: dict[str, Any] = {"montage_id": montage_id, "ok": not self.reason}
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
