import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.errors import FitFailed
from em_platform.imaging.lens import distort_points, lens_field
from em_platform.model import LensModel, Montage, Shift, Size, Tile, TileMatch
from em_platform.stitching.lens import (
    PointMatches,
    design,
    fit_lens,
    fit_points,
    gather,
    near_main_shift,
)

SIZE = Size(height_px=1000, width_px=1000)


def true_lens() -> LensModel:
    """Barrel of third order, a little of second and of fifth."""
    dy, dx = [0.0] * 21, [0.0] * 21
    dy[6] = dy[8] = dx[7] = dx[9] = 3.0
    dy[3], dx[5], dy[15] = 1.5, -0.8, 0.7
    return LensModel(
        microscope="m",
        magnification=1,
        size=SIZE,
        degree=5,
        dy_px=tuple(dy),
        dx_px=tuple(dx),
        residual_mean_px=0.0,
        residual_std_px=0.0,
        points=0,
    )


def montage(places: list[tuple[float, float]], size: Size = SIZE) -> Montage:
    tiles = tuple(
        Tile(tile_id=str(i), uri="", row=0, column=0, y_px=y, x_px=x, size=size)
        for i, (y, x) in enumerate(places)
    )
    return Montage(
        acquisition_id="lens",
        montage_id="lens",
        tiles=tiles,
        tile_size=size,
        microscope="temca",
        expected_tiles=len(tiles),
    )


def as_match(a: str, b: str, a_points: Any, b_points: Any) -> TileMatch:
    return TileMatch(
        a=a,
        b=b,
        shift=Shift(dy_px=0.0, dx_px=0.0),
        score=0.9,
        points=len(a_points),
        peak_z=30.0,
        spread_px=1.0,
        a_points=tuple(map(tuple, np.asarray(a_points).tolist())),
        b_points=tuple(map(tuple, np.asarray(b_points).tolist())),
    )


def imaged(step: float, *, wrong: float = 0.0) -> tuple[Montage, tuple[TileMatch, ...]]:
    """3 x 3 turned tiles seen through the lens, a share of the points wrong."""
    rng = np.random.default_rng(4)
    lens = true_lens()
    places = [(step * r, step * c) for r in range(3) for c in range(3)]
    corners = np.array(places) + rng.uniform(-20, 20, (9, 2))
    angles = np.deg2rad(rng.normal(0, 0.05, 9))
    matches = []
    for i in range(9):
        for j in range(i + 1, 9):
            first = np.maximum(corners[i], corners[j]) + 20
            last = np.minimum(corners[i], corners[j]) + 980
            if (last - first < 50).any():
                continue
            world = rng.uniform(first, last, (150, 2))
            seen = []
            for k in (i, j):
                c, s = np.cos(angles[k]), np.sin(angles[k])
                local = (world - corners[k]) @ np.array([[c, -s], [s, c]])
                noise = rng.normal(0, 0.05, world.shape)
                seen.append(distort_points(lens, local) + noise)
            bad = rng.random(len(world)) < wrong
            seen[1][bad] += rng.uniform(-300, 300, (int(bad.sum()), 2))
            matches.append(as_match(str(i), str(j), *seen))
    return montage(places), tuple(matches)


def field_error_px(found: LensModel) -> float:
    """Largest difference beyond a shift, turn, scale and shear."""
    y, x = (v.ravel() for v in np.mgrid[0:1000:25, 0:1000:25].astype(float))
    truth = lens_field(true_lens(), y, x)
    off = np.stack(lens_field(found, y, x), axis=1) - np.stack(truth, axis=1)
    affine = np.stack([np.ones_like(y), y, x], axis=1)
    off -= affine @ np.linalg.lstsq(affine, off)[0]
    return float(np.abs(off).max())


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_a_known_lens_is_found_also_among_gross_outliers(wrong: float) -> None:
    tiles, matches = imaged(400.0, wrong=wrong)
    lens = fit_lens(tiles, matches, magnification=2000)
    assert field_error_px(lens) < 0.05
    assert lens.residual_mean_px < 0.01
    assert lens.residual_std_px == pytest.approx(0.05 * np.sqrt(2), abs=0.01)
    assert (lens.microscope, lens.magnification, lens.size) == ("temca", 2000, SIZE)
    total = sum(match.points for match in matches)
    assert lens.points == pytest.approx((1 - wrong) * total, rel=0.05)


def test_shift_turn_and_scale_are_left_to_the_tiles() -> None:
    tiles, matches = imaged(400.0)
    lens = fit_lens(tiles, matches, magnification=2000, degree=3)
    assert lens.dy_px[:3] == lens.dx_px[:3] == (0.0, 0.0, 0.0)
    assert len(lens.dy_px) == 10


def test_matches_that_were_not_kept_are_not_used() -> None:
    tiles, matches = imaged(400.0)
    left_out = tuple(
        match.model_copy(update={"kept": i < 3}) for i, match in enumerate(matches)
    )
    points = gather(tiles, left_out)
    assert len(points.a) == sum(match.points for match in matches[:3])


def test_an_overlap_too_small_to_cover_the_field_is_refused() -> None:
    tiles, matches = imaged(860.0)
    with pytest.raises(FitFailed, match="% of the field, 90% needed; image a set"):
        fit_lens(tiles, matches, magnification=2000)


def test_too_few_points_are_refused() -> None:
    tiles, matches = imaged(400.0)
    few = tuple(
        match.model_copy(
            update={"a_points": match.a_points[:2], "b_points": match.b_points[:2]}
        )
        for match in matches
    )
    with pytest.raises(FitFailed, match="matched points, at least 111 needed"):
        fit_lens(tiles, few, magnification=2000)


def test_the_main_shift_of_a_pair_wins_over_scattered_points() -> None:
    rng = np.random.default_rng(0)
    good = np.array([30.0, -900.0]) + rng.uniform(-5, 5, (40, 2))
    bad = rng.uniform(-1000, 1000, (60, 2))
    marked = near_main_shift(np.concatenate([bad, good]), length_px=1000.0)
    assert marked[60:].all()
    assert marked[:60].sum() <= 2


def allen(shared_data: Path) -> tuple[Montage, tuple[TileMatch, ...]]:
    """Nine real tiles of 3840 x 3840 that overlap by 60 %, and their points."""
    folder = shared_data / "allen_acquisition/lens"
    metadata = json.loads(next(folder.glob("_metadata*")).read_text())
    found = json.loads(next(folder.glob("_template*")).read_text())["collection"]
    size = Size(height_px=3840, width_px=3840)
    names = [entry["img_path"].removesuffix(".tif") for entry in metadata[1]["data"]]
    tiles = montage([(0.0, 0.0)] * len(names), size)
    number = {name: str(i) for i, name in enumerate(names)}
    matches = []
    for entry in found:
        p, q = (np.array(entry["matches"][side])[::-1].T for side in ("p", "q"))
        matches.append(as_match(number[entry["pId"]], number[entry["qId"]], p, q))
    return tiles, tuple(matches)


def test_the_real_lens_set_fits_as_well_as_its_own_tool_says(shared_data: Path) -> None:
    tiles, matches = allen(shared_data)
    lens = fit_lens(tiles, matches, magnification=1)
    assert lens.points > 20_000
    assert lens.residual_mean_px <= 0.2
    assert lens.residual_std_px <= 0.6


def test_real_points_that_the_fit_did_not_see_lie_as_close(shared_data: Path) -> None:
    tiles, matches = allen(shared_data)
    points = gather(tiles, matches)
    rng = np.random.default_rng(0)
    held = rng.random(len(points.a)) < 0.3

    def part(mask: np.ndarray) -> PointMatches:
        return PointMatches(
            a=points.a[mask],
            b=points.b[mask],
            a_points=points.a_points[mask],
            b_points=points.b_points[mask],
        )

    size = tiles.tile_size
    fit = fit_points(part(~held), size=size, degree=5)
    unseen = part(held)
    system = design(unseen, tiles=9, size=size, degree=5)
    off = system.residuals(fit.motions, fit.coefficients[3:])
    inliers = np.hypot(*off.T) < 10
    assert inliers.mean() > 0.99
    # em_stitch on all points, its own inliers: 0.811 in x, 0.582 in y
    std_y, std_x = off[inliers].std(axis=0)
    assert std_x < 0.6
    assert std_y < 0.6
