"""Figures of a fit, named alike wherever they are shown."""

import pytest

from em_platform.model import MontageFit, Shift, TileMatch, TilePlacement
from em_platform.stitching.closure import residuals_of


def fit_of(*residuals: float, rejected: int = 0) -> MontageFit:
    def match(number: int, residual: float, kept: bool) -> TileMatch:
        return TileMatch(
            a=str(number),
            b=str(number + 1),
            shift=Shift(dy_px=0, dx_px=0),
            score=1,
            peak_z=20,
            spread_px=0.1,
            points=9,
            kept=kept,
            residual_px=residual,
        )

    matches = [match(n, residual, True) for n, residual in enumerate(residuals)]
    matches += [match(100 + n, 50.0, False) for n in range(rejected)]
    return MontageFit(
        acquisition_id="m",
        placements=(TilePlacement(tile_id="0", y_px=0, x_px=0),),
        matches=tuple(matches),
        residual_px=0.0,
    )


def test_the_three_figures_are_named_and_of_the_kept_matches_alone() -> None:
    found = residuals_of(fit_of(0.3, 0.4, 1.2, rejected=2))
    assert found.rms_px == pytest.approx(((0.09 + 0.16 + 1.44) / 3) ** 0.5)
    assert (found.median_px, found.worst_px) == (0.4, 1.2)
    assert str(found) == (
        "residual rms 0.751 px, median 0.400 px, worst 1.200 px of 3 matches"
    )


def test_without_edges_no_residual_is_claimed() -> None:
    assert str(residuals_of(fit_of())) == "no overlaps"
    assert str(residuals_of(fit_of(rejected=1))) == "no match kept"
