"""Nominal places and matches of a growing montage, from its tiles' messages."""

import math

import numpy as np
import pytest

from em_platform.acquisition.frame_paths import tile_name
from em_platform.acquisition.montage_fit.growing import (
    FOCUS,
    MATCHES,
    RAW,
    GrowingTile,
    LiveMontage,
    as_montage,
    nominal_places,
    tile_matches,
)
from em_platform.model import Size

SIZE = Size(height_px=100, width_px=120)


def tile(row: int, column: int, stage: tuple[int, int] | None) -> GrowingTile:
    return GrowingTile(
        tile_id=f"{row}-{column}", cell=(row, column), overlap_px=20, stage_nm=stage
    )


@pytest.mark.parametrize("turn_deg", [0.0, 35.0, 181.4])
@pytest.mark.parametrize("pixel_nm", [3.9, 259.0])
def test_the_raster_tells_pixel_size_and_turn_of_the_stage(
    turn_deg: float, pixel_nm: float
) -> None:
    rng = np.random.default_rng(2)
    cells = [(row, column) for row in range(5) for column in range(6)]
    true = np.array(cells) * (80.0, 100.0) + rng.normal(0, 3, (30, 2))
    c, s = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    stage = (true[:, ::-1] @ np.array([[c, s], [-s, c]])) * pixel_nm + 1e6
    tiles = [
        tile(*cell, (round(x), round(y)))
        for cell, (x, y) in zip(cells, stage.tolist(), strict=True)
    ]
    off = nominal_places(tiles, SIZE) - true
    off -= off.mean(axis=0)
    # Jitter of 3 px bends the least-squares grid by some tenths of it, not more.
    assert np.abs(off).max() < 3.5
    assert np.abs(off).mean() < 1.0


def test_a_single_row_and_a_silent_stage_go_by_the_raster() -> None:
    row = [tile(2, column, (column * 400, 0)) for column in (1, 2, 3)]
    assert nominal_places(row, SIZE).tolist() == [[0, 0], [0, 100], [0, 200]]
    silent = [tile(0, 0, None), tile(1, 1, None)]
    assert nominal_places(silent, SIZE).tolist() == [[0, 0], [80, 100]]


def body(row: int, column: int, **own: object) -> dict[str, object]:
    fields = {"tile_id": f"{row}-{column}", "montage_id": "m", "overlap": 20}
    place = {"row": row, "column": column, "stage_position": None}
    return {**fields, **place, **own}


def match_of(row: int, column: int, *, p: list[list[float]], q: list[list[float]]):
    """A match with a neighbour; points are `(y, x)`."""
    return {
        "cell": [row, column],
        "pY": [y for y, _ in p],
        "pX": [x for _, x in p],
        "qY": [y for y, _ in q],
        "qX": [x for _, x in q],
    }


def test_matches_name_the_upper_or_left_tile_first_however_it_was_imaged() -> None:
    growing = LiveMontage(acquisition_id="a")
    for cell in ((0, 0), (0, 1), (1, 0), (1, 1)):
        growing.take(RAW, body(*cell, path="", lens_correction=False))
    # Row 1 runs backwards: (1, 0) was imaged after (1, 1), its right neighbour.
    right_of_it = match_of(1, 1, p=[[50, 110], [60, 110]], q=[[51, 12], [61, 12]])
    above_it = match_of(0, 0, p=[[5, 40]], q=[[84, 43]])
    growing.take(MATCHES, body(1, 0, matches=[right_of_it, above_it]))
    growing.take(MATCHES, body(0, 1, matches=[match_of(0, 0, p=[], q=[])]))
    matches = tile_matches(growing, as_montage(growing, SIZE))
    found = {(m.a, m.b): m for m in matches}
    assert list(found) == [("0-0", "0-1"), ("0-0", "1-0"), ("1-0", "1-1")]
    across = found["1-0", "1-1"].shift
    assert (across.dy_px, across.dx_px) == (-1.0, 98.0)
    down = found["0-0", "1-0"].shift
    assert (down.dy_px, down.dx_px) == (79.0, 3.0)
    failed = found["0-0", "0-1"]
    assert not failed.kept
    assert failed.points == 0
    assert (failed.shift.dy_px, failed.shift.dx_px) == (0.0, 100.0)


def test_the_same_said_twice_is_no_news() -> None:
    growing = LiveMontage(acquisition_id="a")
    first = body(0, 0, matches=[])
    assert growing.take(MATCHES, first)
    assert not growing.take(MATCHES, body(0, 0, matches=[match_of(1, 1, p=[], q=[])]))
    assert growing.version == 1


def named(column: int, retry: int = 0) -> str:
    return tile_name("m-1", 0, column, retry=retry)


def row_of_tiles(*names: str) -> LiveMontage:
    growing = LiveMontage(acquisition_id="m-1")
    for name in names:
        column = int(name[len("m-1_000_") :][:3])
        raw = {"tile_id": name, "path": "", "lens_correction": False}
        growing.take(RAW, body(0, column) | raw)
    return growing


def test_a_tile_that_is_imaged_again_takes_the_place_of_the_rejected_one() -> None:
    growing = row_of_tiles(named(0), named(1), named(1, retry=1))
    late = {"tile_id": named(1), "focus": 0.5}  # still on its way
    assert not growing.take(FOCUS, body(0, 1) | late)
    assert list(growing.tiles) == [named(0), named(1, retry=1)]
    montage = as_montage(growing, SIZE)
    assert [t.tile_id for t in montage.tiles] == [named(0), named(1, retry=1)]


def test_only_matches_with_the_frame_that_counts_are_used() -> None:
    growing = row_of_tiles(named(0), named(1), named(2), named(1, retry=1))
    old = match_of(0, 1, p=[[50, 5]], q=[[50, 105]])  # against the rejected frame
    new = [
        match_of(0, 0, p=[[50, 10]], q=[[50, 110]]),
        match_of(0, 2, p=[[50, 110]], q=[[50, 12]]),
    ]
    growing.take(MATCHES, body(0, 2) | {"tile_id": named(2), "matches": [old]})
    growing.take(MATCHES, body(0, 1) | {"tile_id": named(1, retry=1), "matches": new})
    found = tile_matches(growing, as_montage(growing, SIZE))
    pairs = {(m.a, m.b): m.shift.dx_px for m in found}
    retried = named(1, retry=1)
    assert pairs == {(named(0), retried): 100.0, (retried, named(2)): 98.0}


def test_what_the_end_does_not_announce_is_dropped() -> None:
    growing = row_of_tiles(named(0), named(1))  # the retry was not received
    place = {"column": 1, "row": 0, "x_nm": 0, "y_nm": 0}
    announced = {
        named(0): place | {"column": 0},
        named(1, retry=1): place,
    }
    growing.finish({"montage_id": "m", "acquisition_id": "m-1", "tiles": announced}, 0)
    assert list(growing.tiles) == list(announced)
