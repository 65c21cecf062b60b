"""A montage that was stitched, with the verdict on it, as the store has it."""

from dataclasses import dataclass

from em_platform.config import StitchingSettings
from em_platform.model import (
    Check,
    Montage,
    MontageFit,
    Review,
    TileStats,
    review_of,
)
from em_platform.stitching.judge import check_montage
from em_platform.storage import Store, layout


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedMontage:
    """The tiles that are used, their statistics and places, and all checks."""

    montage: Montage
    stats: tuple[TileStats, ...]
    fit: MontageFit
    checks: tuple[Check, ...]

    @property
    def review(self) -> Review:
        """The verdict that follows from the checks."""
        return review_of(self.checks)


def judged_montage(
    acquisition_id: str, store: Store, settings: StitchingSettings
) -> JudgedMontage:
    """What was made of a montage so far, judged by all rules.

    The mosaic, the catalog record and the review in TEM DB ask here, so that none
    judges by other tiles than the others.

    Raises
    ------
    StorageError
        Its tiles, their statistics or its fit are not there.
    """
    montage = store.read(layout.tiles(acquisition_id), Montage)
    stats = store.read(layout.tile_statistics(acquisition_id), tuple[TileStats, ...])
    fit = store.read(layout.montage_fit(acquisition_id), MontageFit)
    return JudgedMontage(
        montage=montage,
        stats=stats,
        fit=fit,
        checks=check_montage(montage, stats, fit=fit, settings=settings),
    )
