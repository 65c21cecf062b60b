import time

import numpy as np
import pytest

from em_platform.config.stitching import SolveSettings
from em_platform.errors import FitFailed
from em_platform.model import Montage, MontageFit, Shift, Size, Tile, TileMatch
from em_platform.stitching.neighbours import find_neighbours
from em_platform.stitching.solve import solve_montage

SIZE = Size(height_px=1000, width_px=1000)
STEP = 880.0


def grid(rows: int, columns: int) -> Montage:
    tiles = tuple(
        Tile(
            tile_id=f"{r}-{c}",
            uri="",
            row=r,
            column=c,
            y_px=STEP * r,
            x_px=STEP * c,
            size=SIZE,
        )
        for r in range(rows)
        for c in range(columns)
    )
    return Montage(
        acquisition_id="m",
        montage_id="m",
        tiles=tiles,
        tile_size=SIZE,
        expected_tiles=len(tiles),
    )


def true_places(montage: Montage, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        tile.tile_id: np.array([tile.y_px, tile.x_px]) + rng.uniform(-25, 25, 2)
        for tile in montage.tiles
    }


def turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def exact_matches(
    montage: Montage,
    places: dict[str, np.ndarray],
    *,
    turns: dict[str, np.ndarray] | None = None,
    noise_px: float = 0.0,
) -> list[TileMatch]:
    """What a perfect matcher would say: ten points along each seam."""
    rng = np.random.default_rng(5)
    turns = turns or {tile.tile_id: np.eye(2) for tile in montage.tiles}
    matches = []
    for pair in find_neighbours(montage, min_overlap_px=10):
        a, b = pair.a.tile_id, pair.b.tile_id
        along, across = np.linspace(100, 900, 10), np.full(10, 940.0)
        own = [across, along] if pair.side == "below" else [along, across]
        a_points = np.stack(own, axis=1)
        world = places[a] + a_points @ turns[a].T
        b_points = (world - places[b]) @ np.linalg.inv(turns[b]).T
        b_points = b_points + noise_px * rng.standard_normal((10, 2))
        shift = (a_points - b_points).mean(axis=0)
        matches.append(
            TileMatch(
                a=a,
                b=b,
                shift=Shift(dy_px=shift[0], dx_px=shift[1]),
                score=0.9,
                points=10,
                peak_z=50.0,
                spread_px=noise_px,
                a_points=tuple(map(tuple, a_points)),
                b_points=tuple(map(tuple, b_points)),
            )
        )
    return matches


def solve(
    montage: Montage, matches: list[TileMatch], model: str = "auto"
) -> MontageFit:
    settings = SolveSettings.model_validate({"model": model})
    return solve_montage(montage, tuple(matches), settings=settings)


def errors(fit: MontageFit, places: dict[str, np.ndarray]) -> np.ndarray:
    off = np.array([(p.y_px, p.x_px) - places[p.tile_id] for p in fit.placements])
    return np.asarray(np.hypot(*(off - np.median(off, axis=0)).T))


def wrong(match: TileMatch, dy_px: float, dx_px: float) -> TileMatch:
    shift = Shift(dy_px=match.shift.dy_px + dy_px, dx_px=match.shift.dx_px + dx_px)
    b_points = tuple((y - dy_px, x - dx_px) for y, x in match.b_points)
    return match.model_copy(update={"shift": shift, "b_points": b_points})


@pytest.mark.parametrize("model", ["auto", "translation", "rigid", "affine"])
def test_exact_matches_give_exact_places(model: str) -> None:
    montage = grid(4, 5)
    places = true_places(montage)
    fit = solve(montage, exact_matches(montage, places), model)
    assert errors(fit, places).max() < 0.03
    assert fit.residual_px < 0.01
    assert all(match.kept and match.residual_px is not None for match in fit.matches)
    assert {placement.component for placement in fit.placements} == {0}


def test_the_stage_does_not_bend_a_montage_whose_scale_it_has_wrong() -> None:
    montage = grid(20, 20)
    places = {
        tile.tile_id: 1.01 * np.array([tile.y_px, tile.x_px]) for tile in montage.tiles
    }
    fit = solve(montage, exact_matches(montage, places))
    assert errors(fit, places).max() < 0.01


def test_wrong_matches_are_left_out_and_named() -> None:
    montage = grid(5, 5)
    places = true_places(montage)
    matches = exact_matches(montage, places, noise_px=0.05)
    for i, off in ((3, (80.0, -30.0)), (17, (0.0, 9.0)), (30, (-120.0, 120.0))):
        matches[i] = wrong(matches[i], *off)
    fit = solve(montage, matches)
    assert [i for i, match in enumerate(fit.matches) if not match.kept] == [3, 17, 30]
    assert fit.matches[17].reason == "9.0 px from where the other matches put it"
    assert fit.matches[17].residual_px == pytest.approx(9.0, abs=0.1)
    assert errors(fit, places).max() < 0.06


def test_a_tile_that_jumped_goes_where_its_matches_say() -> None:
    montage = grid(5, 5)
    places = true_places(montage)
    places["2-1"] += (60.0, -60.0)
    fit = solve(montage, exact_matches(montage, places))
    assert errors(fit, places).max() < 0.01
    assert all(match.kept for match in fit.matches)


def test_matches_that_came_unmatched_stay_out() -> None:
    montage = grid(3, 3)
    places = true_places(montage)
    matches = exact_matches(montage, places)
    matches[4] = wrong(matches[4], 50.0, 50.0).model_copy(
        update={"kept": False, "reason": "no texture in the overlap"}
    )
    fit = solve(montage, matches)
    assert fit.matches[4].reason == "no texture in the overlap"
    assert fit.matches[4].residual_px is None
    assert errors(fit, places).max() < 0.01


def test_a_tile_that_nothing_connects_stays_beside_its_neighbours() -> None:
    montage = grid(5, 5)
    places = {
        tile.tile_id: np.array([tile.y_px + 40, tile.x_px]) for tile in montage.tiles
    }
    matches = [
        match
        for match in exact_matches(montage, places)
        if "2-2" not in (match.a, match.b)
    ]
    fit = solve(montage, matches)
    lonely = next(p for p in fit.placements if p.tile_id == "2-2")
    assert lonely.component == 1
    assert lonely.residual_px is None
    assert errors(fit, places).max() < 0.01


def test_without_any_match_every_tile_stays_where_the_stage_said() -> None:
    montage = grid(2, 3)
    fit = solve(montage, [])
    for tile, placement in zip(montage.tiles, fit.placements, strict=True):
        assert placement.y_px == pytest.approx(tile.y_px, abs=1e-6)
        assert placement.x_px == pytest.approx(tile.x_px, abs=1e-6)
    assert sorted(p.component for p in fit.placements) == [0, 1, 2, 3, 4, 5]
    assert fit.residual_px == 0.0


def test_groups_of_tiles_are_numbered_by_size() -> None:
    montage = grid(1, 7)
    places = true_places(montage)
    matches = exact_matches(montage, places)
    del matches[2]  # between the third tile and the fourth
    fit = solve(montage, matches)
    assert [p.component for p in fit.placements] == [1, 1, 1, 0, 0, 0, 0]


def test_turned_tiles_are_turned_back_when_it_closes_the_seams() -> None:
    montage = grid(4, 4)
    places = true_places(montage)
    rng = np.random.default_rng(1)
    angles = np.deg2rad(rng.normal(0, 0.1, len(montage.tiles)))
    angles -= angles.mean()
    turns = {t.tile_id: turn(v) for t, v in zip(montage.tiles, angles, strict=True)}
    matches = exact_matches(montage, places, turns=turns, noise_px=0.02)
    assert solve(montage, matches, "translation").residual_px > 0.2
    fit = solve(montage, matches)
    assert fit.residual_px < 0.05
    for placement, angle in zip(fit.placements, angles, strict=True):
        assert placement.xy == pytest.approx(angle, abs=5e-5)


def test_tiles_that_only_moved_are_not_turned() -> None:
    montage = grid(4, 4)
    matches = exact_matches(montage, true_places(montage), noise_px=0.05)
    for placement in solve(montage, matches).placements:
        assert (placement.yy, placement.yx, placement.xy, placement.xx) == (1, 0, 0, 1)


def test_sheared_tiles_are_straightened_when_it_closes_the_seams() -> None:
    montage = grid(4, 4)
    places = true_places(montage)
    rng = np.random.default_rng(2)
    shears = {t.tile_id: np.eye(2) + rng.normal(0, 2e-3, (2, 2)) for t in montage.tiles}
    matches = exact_matches(montage, places, turns=shears, noise_px=0.02)
    assert solve(montage, matches, "rigid").residual_px > 0.5
    assert solve(montage, matches).residual_px < 0.15


def test_the_order_of_tiles_and_matches_does_not_matter() -> None:
    montage = grid(4, 4)
    places = true_places(montage)
    matches = exact_matches(montage, places, noise_px=0.1)
    matches[5] = wrong(matches[5], 70.0, 0.0)
    fit = solve(montage, matches)
    backwards = montage.model_copy(update={"tiles": montage.tiles[::-1]})
    again = solve(backwards, matches[::-1])
    one = {p.tile_id: (p.y_px, p.x_px) for p in fit.placements}
    for placement in again.placements:
        assert (placement.y_px, placement.x_px) == pytest.approx(
            one[placement.tile_id], abs=1e-4
        )


def test_1600_tiles_are_placed_in_a_second_or_two() -> None:
    montage = grid(40, 40)
    places = true_places(montage)
    rng = np.random.default_rng(3)
    matches = [
        wrong(match, *rng.uniform(-100, 100, 2)) if rng.random() < 0.02 else match
        for match in exact_matches(montage, places, noise_px=0.05)
    ]
    start = time.process_time()
    fit = solve(montage, matches)
    assert time.process_time() - start < 5.0
    assert errors(fit, places).max() < 0.3


def test_no_tiles_cannot_be_solved() -> None:
    with pytest.raises(FitFailed, match="no tile could be taken in"):
        solve(grid(0, 0), [])


def test_a_match_of_another_montage_is_refused() -> None:
    matches = exact_matches(grid(1, 3), true_places(grid(1, 3)))
    with pytest.raises(FitFailed, match="0-1 and 0-2 was given, both must be tiles"):
        solve(grid(1, 2), matches)
