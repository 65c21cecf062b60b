from collections.abc import Callable
from typing import Any

from em_platform.operator.tile_map import TileMap


def test_the_size_is_foreseen_from_the_second_row_on(
    of_tile: Callable[..., dict[str, Any]],
) -> None:
    tiles = TileMap("m", "a")
    for column in range(3):
        tiles.imaged(of_tile(0, column), 1)
    assert tiles.size(12) == (1, 3)
    tiles.imaged(of_tile(1, 2), 1)
    assert tiles.size(12) == (4, 3)


def test_a_map_that_was_kept_comes_back_without_its_pictures(
    of_tile: Callable[..., dict[str, Any]],
) -> None:
    tiles = TileMap("m", "a")
    tiles.imaged(of_tile(0, 0, stage_position=[5, 6]), 1)
    tiles.measured(of_tile(0, 0, focus=0.5), 2)
    tiles.pictured(of_tile(0, 0), 3)
    back = TileMap.restored(tiles.kept(), 9)
    assert back.tiles[0, 0].focus == 0.5
    assert back.tiles[0, 0].version == 9
    assert back.tiles[0, 0].mini == 0
    assert back.since(8) == [[0, 0, 0.5, None, None, 0]]


def test_the_map_shows_the_last_frame_of_a_tile_that_was_imaged_again(
    of_tile: Callable[..., dict[str, Any]],
) -> None:
    tiles = TileMap("m", "a")
    first = of_tile(0, 0)
    again = {**first, "tile_id": f"{first['tile_id']}r1"}
    tiles.imaged(first, 1)
    tiles.judged({**first, "passed": False}, 2)
    tiles.imaged(again, 3)
    assert tiles.tiles[0, 0].passed is None
    tiles.judged({**again, "passed": True}, 4)
    tiles.judged({**first, "passed": False}, 5)  # late
    assert (tiles.tiles[0, 0].tile_id, tiles.tiles[0, 0].passed) == (
        again["tile_id"],
        True,
    )
