"""All rules that say whether a montage is good, known before its mosaic is made."""

from collections.abc import Sequence

from em_platform.config import StitchingSettings
from em_platform.model import Check, Montage, MontageFit, TileStats
from em_platform.stitching.quality import (
    check_completeness,
    check_fit,
    check_matches,
    check_tiles,
)


def check_montage(
    montage: Montage,
    stats: Sequence[TileStats],
    *,
    fit: MontageFit,
    settings: StitchingSettings,
) -> tuple[Check, ...]:
    """All rules, applied to one montage from which the bad tiles were excluded.

    Assets, `em-platform stitch`, the record and the review in TEM DB judge by these.
    """
    limits = settings.quality
    return (
        *check_completeness(montage),
        *check_tiles(stats, limits),
        *check_matches(montage, fit.matches, limits),
        *check_fit(montage, fit, limits),
    )
