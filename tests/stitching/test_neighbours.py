import numpy as np
import pytest

from em_platform.model import Montage, Size, Tile
from em_platform.stitching.neighbours import abut, find_neighbours

SIZE = Size(height_px=100, width_px=200)


def montage(places: list[tuple[float, float]]) -> Montage:
    tiles = tuple(
        Tile(tile_id=f"t{i}", uri="", row=0, column=0, y_px=y, x_px=x, size=SIZE)
        for i, (y, x) in enumerate(places)
    )
    return Montage(
        acquisition_id="m",
        montage_id="m",
        tiles=tiles,
        tile_size=SIZE,
        expected_tiles=len(tiles),
    )


def names(places: list[tuple[float, float]], least: float = 8) -> set[tuple[str, str]]:
    pairs = find_neighbours(montage(places), min_overlap_px=least)
    return {(pair.a.tile_id, pair.b.tile_id) for pair in pairs}


def test_a_grid_has_its_sides_and_not_its_corners() -> None:
    places = [(88.0 * r, 176.0 * c) for r in range(3) for c in range(3)]
    pairs = find_neighbours(montage(places), min_overlap_px=8)
    assert len(pairs) == 12
    assert [pair.side for pair in pairs].count("right") == 6
    first = pairs[0]
    assert (first.a.tile_id, first.b.tile_id, first.side) == ("t0", "t1", "right")
    assert (first.overlap_height_px, first.overlap_width_px) == (100, 24)
    assert (first.nominal.dy_px, first.nominal.dx_px) == (0, 176)


def test_with_60_percent_overlap_diagonal_tiles_are_neighbours_too() -> None:
    places = [(40.0 * r, 80.0 * c) for r in range(3) for c in range(3)]
    found = names(places)
    assert ("t0", "t4") in found
    assert ("t0", "t2") in found
    assert ("t0", "t8") not in found


def test_the_left_or_upper_tile_is_a_whatever_the_order() -> None:
    assert names([(0, 176), (0, 0)]) == {("t1", "t0")}
    assert names([(88, 3), (0, 0)]) == {("t1", "t0")}
    assert names([(-500.0, -700.0), (-412.0, -703.0)]) == {("t0", "t1")}


def test_an_overlap_thinner_than_wanted_is_none() -> None:
    assert names([(0, 0), (0, 190)], least=11) == set()
    assert names([(0, 0), (0, 190)], least=10) == {("t0", "t1")}
    assert names([(0, 0), (0, 200)], least=0.5) == set()


def test_no_tiles_have_no_neighbours() -> None:
    assert find_neighbours(montage([]), min_overlap_px=1) == ()


@pytest.mark.parametrize("seed", [0, 1])
def test_scattered_tiles_have_the_neighbours_that_all_pairs_would_give(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    places = [(float(y), float(x)) for y, x in rng.uniform(-400, 400, (60, 2))]
    wanted = set()
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            high, wide = 100 - abs(v - y), 200 - abs(u - x)
            beside = abs(u - x) >= abs(v - y)
            across, along = (wide, high / 100) if beside else (high, wide / 200)
            if i != j and across >= 8 and along >= 0.4 and (u > x if beside else v > y):
                wanted.add((f"t{i}", f"t{j}"))
    assert names(places) == wanted


@pytest.mark.parametrize(
    ("step", "abutting"),
    [((100, 200), True), ((100.4, 200), True), ((102, 200), False), ((99, 199), False)],
)
def test_tiles_abut_where_none_overlaps_and_none_is_apart(
    step: tuple[float, float], abutting: bool
) -> None:
    """round3 1.2.6: they are joined where they lie; a gap is still a fault."""
    places = [(step[0] * r, step[1] * c) for r in range(3) for c in range(2)]
    assert abut(montage(places)) is abutting
    assert not abut(montage([*places, (900.0, 900.0)]))
    assert not abut(montage(places[:1]))
