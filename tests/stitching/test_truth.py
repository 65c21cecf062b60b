"""Fitted places are compared with those at which a simulation imaged the tiles."""

import math
from pathlib import Path

import numpy as np
import pytest

from em_platform.config import QualitySettings
from em_platform.model import (
    LensModel,
    Montage,
    MontageFit,
    Size,
    Tile,
    TilePlacement,
)
from em_platform.model.truth import GainTruth, MontageTruth, TileTruth
from em_platform.stitching.truth import check_truth, errors_px, truth_beside

SIZE = Size(height_px=100, width_px=120)
LIMITS = QualitySettings(max_truth_rmse_px=0.5)
PLACES = {f"m_000_00{i}": (7.0 * i, 90.0 * i) for i in range(4)}


def at(tile_id: str, y: float, x: float, **more: float) -> TilePlacement:
    return TilePlacement(tile_id=tile_id, y_px=y, x_px=x, **more)


def truth(lens: LensModel | None = None) -> MontageTruth:
    tiles = {
        tile_id: TileTruth(
            tile_id=tile_id,
            row=0,
            column=number,
            placement=at(tile_id, y - 5000, x + 300),
            nominal_y_px=y,
            nominal_x_px=x,
            beam=1.0,
        )
        for number, (tile_id, (y, x)) in enumerate(PLACES.items())
    }
    return MontageTruth(
        acquisition_id="m",
        montage_id="m",
        seed=1,
        section=0,
        pixel_nm=4.0,
        size=SIZE,
        lens=lens,
        gain=GainTruth(seed=1, vignette=0, pattern=0, dust=0),
        tiles=tiles,
    )


def fit(*placements: TilePlacement) -> MontageFit:
    return MontageFit(
        acquisition_id="m", placements=placements, matches=(), residual_px=0.0
    )


def placed(suffix: str = "") -> list[TilePlacement]:
    return [at(f"{t}{suffix}", y, x) for t, (y, x) in PLACES.items()]


@pytest.mark.parametrize("suffix", ["", ".tiff"])
def test_places_that_differ_by_one_shift_match(suffix: str) -> None:
    (check,) = check_truth(fit(*placed(suffix)), truth(), LIMITS)
    assert check.passed
    assert check.value == pytest.approx(0, abs=1e-9)


def test_the_rms_error_is_that_of_the_distances_from_the_mean_shift() -> None:
    moved = placed()
    # One of four off by (3, 4): its distance from the mean is 3.75, of the others 1.25.
    moved[1] = at("m_000_001", 7.0 + 3, 90.0 + 4)
    (check,) = check_truth(fit(*moved), truth(), LIMITS)
    assert not check.passed
    assert check.value == pytest.approx(math.sqrt((3.75**2 + 3 * 1.25**2) / 4))
    assert check.items[0] == "m_000_001"
    assert "m_000_001 (3.8 px)" in check.sentence


def test_tiles_without_matches_are_left_out() -> None:
    loose = at("m_000_003", 900.0, 900.0).model_copy(update={"component": 1})
    (check,) = check_truth(fit(*placed()[:3], loose), truth(), LIMITS)
    assert check.passed
    assert "of 3 tiles" in check.sentence


def test_without_truth_or_with_that_of_other_tiles_there_is_no_check() -> None:
    assert check_truth(fit(*placed()), None, LIMITS) == ()
    assert check_truth(fit(at("a", 0, 0), at("b", 1, 1)), truth(), LIMITS) == ()


def test_a_lens_leaves_scale_and_turn_of_the_whole_free() -> None:
    scaled = [at(p.tile_id, 1.01 * p.y_px, 1.01 * p.x_px) for p in placed()]
    assert not check_truth(fit(*scaled), truth(), LIMITS)[0].passed
    lens = LensModel(
        microscope="sim", magnification=1, size=SIZE, degree=2, dy_px=(0.0,) * 6,
        dx_px=(0.0,) * 6, residual_mean_px=0, residual_std_px=0, points=0,
    )  # fmt: skip
    assert check_truth(fit(*scaled), truth(lens), LIMITS)[0].passed


def test_a_tilted_specimen_is_compared_as_the_camera_sees_it() -> None:
    found = placed()
    # Foreshortened along y: a camera pixel covers 1 / cos(60 degrees) of the specimen.
    true = [at(p.tile_id, 2 * p.y_px, p.x_px, yy=2.0) for p in found]
    assert np.allclose(errors_px(found, true, size=SIZE, free=False), 0)


def test_it_is_found_beside_the_tiles_whose_ids_it_begins(tmp_path: Path) -> None:
    def montage(*ids: str) -> Montage:
        return Montage(
            acquisition_id="m",
            montage_id="m",
            tile_size=SIZE,
            expected_tiles=len(ids),
            tiles=tuple(
                Tile(
                    tile_id=each, uri=f"{tmp_path}/{each}", row=0, column=0,
                    y_px=0, x_px=0, size=SIZE,
                )
                for each in ids
            ),
        )  # fmt: skip

    (tmp_path / "m.truth.json").write_text(truth().model_dump_json())
    assert truth_beside(montage("m_000_000.tiff", "m_000_001.tiff")) == truth()
    assert truth_beside(montage("m_000_000.tiff", "n_000_001.tiff")) is None
    (tmp_path / "m.truth.json").write_text("{}")
    assert truth_beside(montage("m_000_000.tiff")) is None
