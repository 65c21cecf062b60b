"""The seed decides which tiles are bad and how far the stage misses."""

import math

import pytest

from em_platform.config import SimulationSettings
from em_platform.simulation.devices.truth import TileErrors, faulty_tiles, tile_errors


def errors(settings: SimulationSettings, row: int, column: int) -> TileErrors:
    return tile_errors(
        settings, montage_id="m-1", row=row, column=column, raster=(5, 6)
    )


def test_a_number_of_faults_falls_on_as_many_tiles_and_never_two_on_one() -> None:
    settings = SimulationSettings(missing="2", blurred="3", blank="1", jumped="4")
    found = faulty_tiles(settings, "m-1", raster=(5, 6))
    assert {fault: len(tiles) for fault, tiles in found.items()} == {
        "missing": 2,
        "blurred": 3,
        "blank": 1,
        "jumped": 4,
    }
    assert len(frozenset().union(*found.values())) == 10


def test_named_tiles_are_the_ones() -> None:
    settings = SimulationSettings(missing="1:2 3:0", blank="4:5, 0:0")
    found = faulty_tiles(settings, "m-1", raster=(5, 6))
    assert found["missing"] == {(1, 2), (3, 0)}
    assert found["blank"] == {(4, 5), (0, 0)}


def test_the_same_seed_gives_the_same_errors_and_each_montage_its_own() -> None:
    settings = SimulationSettings(seed=4, blurred="2")
    assert errors(settings, 1, 2) == errors(settings, 1, 2)
    other = tile_errors(settings, montage_id="m-2", row=1, column=2, raster=(5, 6))
    assert other.dy_px != errors(settings, 1, 2).dy_px


def test_the_stage_misses_by_up_to_its_jitter() -> None:
    settings = SimulationSettings(jitter_px=7.0)
    misses = [errors(settings, row, column) for row in range(5) for column in range(6)]
    assert max(abs(each.dy_px) for each in misses) <= 7.0
    assert max(abs(each.dx_px) for each in misses) > 5.0


def test_a_jumped_tile_lies_the_jump_away() -> None:
    settings = SimulationSettings(jitter_px=0.0, jumped="1:1", jump_px=60.0)
    jumped = errors(settings, 1, 1)
    assert math.hypot(jumped.dy_px, jumped.dx_px) == pytest.approx(60.0)
    assert errors(settings, 1, 2).dy_px == 0.0
