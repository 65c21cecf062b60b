"""Are the tiles where they truly lay: for montages of a specimen with truth."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from em_platform.config.stitching import QualitySettings
from em_platform.errors import FormatError
from em_platform.formats import is_folder, join_uri, list_folder, open_source
from em_platform.model import (
    Check,
    Montage,
    MontageFit,
    Severity,
    Size,
    TilePlacement,
)
from em_platform.model.sentences import apart
from em_platform.model.truth import MontageTruth, TileTruth
from em_platform.stitching.recipe import folder_of
from em_platform.stitching.sidecar_files import TRUTH, frame_stem
from em_platform.storage.layout import StorageOptions

log = logging.getLogger(__name__)

MATCHES_TRUTH = "placements_match_truth"
"""The name of the check."""

_NAMED = 3  # tiles that a sentence names; `Check.items` has all of them
_EXACT = 1e-9  # of the linear part of a placement: less is rounding


def truth_beside(
    montage: Montage,
    folder: str | None = None,
    options: StorageOptions | None = None,
) -> MontageTruth | None:
    """What a simulated microscope left beside the tiles of a montage; None: nothing.

    It lies in `folder`, by default where the first tile does, and is called as the ids
    of all tiles begin.
    """
    folder = folder or folder_of(montage)
    if not montage.tiles or not is_folder(folder, options):
        return None
    for name in list_folder(folder, options):
        stem = name.removesuffix(TRUTH)
        # Several acquisitions may share a folder: the ids choose.
        if stem != name and all(
            _own_name(tile.tile_id).startswith(f"{stem}_") for tile in montage.tiles
        ):
            return _read(join_uri(folder, name), options)
    return None


def _read(uri: str, options: StorageOptions | None) -> MontageTruth | None:
    try:
        content = open_source(uri, options, whole=True).all()
        return MontageTruth.model_validate_json(content)
    except (FormatError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        log.warning("%s: not a truth of tiles (%s); it is not compared", uri, reason)
        return None


def _own_name(tile_id: str) -> str:
    # A list of files names them with folder and suffix.
    return frame_stem(tile_id.rpartition("/")[2])


def check_truth(
    fit: MontageFit, truth: MontageTruth | None, limits: QualitySettings
) -> tuple[Check, ...]:
    """How far the fitted places are from the true ones; empty where nothing is known.

    Tiles that no match connects to the largest part lie where the stage was: they have
    a check of their own and are left out.
    """
    known = _pairs(fit, truth)
    if truth is None or len(known) < 2:
        return ()
    placed, true = zip(*known, strict=True)
    # Turned or deformed tiles, and those of a lens, fix the montage but for a turn and
    # a scale of the whole; plain shifts fix all but its place.
    is_free = truth.lens is not None or any(map(_is_deformed, placed))
    off = errors_px(placed, [t.placement for t in true], size=truth.size, free=is_free)
    worst = np.argsort(-off)
    rmse = float(np.sqrt(np.square(off).mean()))
    limit = limits.max_truth_rmse_px
    passed = rmse <= limit
    sentence = (
        f"The tiles lie where they were imaged (RMSE {rmse:.3f} px of {len(off)} tiles,"
        f" at most {limit:g} px)."
    )
    named = [f"{placed[i].tile_id} ({off[i]:.1f} px)" for i in worst if off[i] > limit]
    if not passed:
        sentence = (
            "The tiles do not lie where they were imaged: RMSE "
            f"{apart(rmse, limit, '.2f')} px of {len(off)} tiles, at most {limit:g} px "
            f"expected (worst: {', '.join(named[:_NAMED])}); look at the matches of "
            "these tiles, and at the lens correction."
        )
    return (
        Check(
            name=MATCHES_TRUTH,
            passed=passed,
            severity=Severity.ERROR,
            sentence=sentence,
            value=rmse,
            limit=limit,
            items=() if passed else tuple(placed[i].tile_id for i in worst),
        ),
    )


def is_truth(check: Check) -> bool:
    """Whether it is the check of this module."""
    return check.name == MATCHES_TRUTH


def errors_px(
    placed: Sequence[TilePlacement],
    true: Sequence[TilePlacement],
    *,
    size: Size,
    free: bool,
) -> NDArray[np.float64]:
    """`(n,)`: how far the middle of each tile is from where it truly lies.

    The common shift is taken out, and with `free` the common turn and scale as well.
    """
    found = _middles(placed, size)
    # What all tiles share is the view of the camera: the specimen may be tilted.
    shared = np.mean([((p.yy, p.yx), (p.xy, p.xx)) for p in true], axis=0)
    wanted = np.linalg.solve(shared, _middles(true, size).T).T
    found, wanted = found - found.mean(axis=0), wanted - wanted.mean(axis=0)
    if free:
        # As complex numbers a turn with a scale is one factor (least squares).
        own, other = found @ (1, 1j), wanted @ (1, 1j)
        best = np.vdot(own, other) / max(float(np.vdot(own, own).real), 1e-12)
        return np.asarray(np.abs(other - best * own), np.float64)
    return np.asarray(np.linalg.norm(found - wanted, axis=1), np.float64)


def _middles(places: Sequence[TilePlacement], size: Size) -> NDArray[np.float64]:
    y, x = 0.5 * (size.height_px - 1), 0.5 * (size.width_px - 1)
    return np.array(
        [
            (p.y_px + p.yy * y + p.yx * x, p.x_px + p.xy * y + p.xx * x)
            for p in places
        ]
    )  # fmt: skip


def _pairs(
    fit: MontageFit, truth: MontageTruth | None
) -> list[tuple[TilePlacement, TileTruth]]:
    """The connected tiles of which the truth is known, each with it."""
    tiles = {} if truth is None else truth.tiles
    named = {each.tile_id: _own_name(each.tile_id) for each in fit.placements}
    return [
        (each, tiles[named[each.tile_id]])
        for each in fit.placements
        if each.component == 0 and named[each.tile_id] in tiles
    ]


def _is_deformed(place: TilePlacement) -> bool:
    off = (place.yy - 1.0, place.yx, place.xy, place.xx - 1.0)
    return any(abs(each) > _EXACT for each in off)
