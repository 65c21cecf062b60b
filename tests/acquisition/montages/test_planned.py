from pathlib import Path

import pytest

from em_platform.acquisition.montages.planned import as_first_planned, with_plan
from em_platform.model import Failure, Montage, Size, Tile
from em_platform.storage import layout
from em_platform.storage.store import open_store

SIZE = Size(height_px=8, width_px=8)


def montage(
    *cells: tuple[str, int, int], failures: tuple[str, ...] = (), expected: int = 0
) -> Montage:
    """Tiles of these names, rows and columns; `expected` are at least all of them."""
    return Montage(
        acquisition_id="m",
        montage_id="m",
        tiles=tuple(
            Tile(
                tile_id=name,
                uri=name,
                row=row,
                column=column,
                y_px=8 * row,
                x_px=8 * column,
                size=SIZE,
            )
            for name, row, column in cells
        ),
        tile_size=SIZE,
        expected_tiles=max(expected, len(cells) + len(failures)),
        failures=tuple(
            Failure(item=name, error="FormatError", sentence=f"{name}: gone")
            for name in failures
        ),
    )


A, B, C = ("a", 0, 0), ("b", 0, 1), ("c", 1, 0)


def test_the_first_run_makes_the_plan() -> None:
    first = with_plan(montage(A, B, C), ())
    assert [tile.tile_id for tile in first.planned] == ["a", "b", "c"]
    assert (first.expected_tiles, first.failures) == (3, ())


def test_a_tile_that_is_gone_stays_missing_in_every_later_run() -> None:
    first = with_plan(montage(A, B, C), ())
    later = with_plan(montage(A, B), first.planned)
    last = with_plan(montage(A, B), later.planned)
    for found in (later, last):
        assert [failure.item for failure in found.failures] == ["c"]
        assert (len(found.tiles), found.expected_tiles) == (2, 3)


def test_a_tile_that_comes_back_is_no_longer_missing() -> None:
    first = with_plan(montage(A, B, C), ())
    later = with_plan(montage(A, B), first.planned)
    healed = with_plan(montage(A, B, C), later.planned)
    assert (healed.failures, healed.expected_tiles) == ((), 3)


def test_a_tile_whose_failure_is_known_is_counted_once() -> None:
    first = with_plan(montage(A, B, C), ())
    later = with_plan(montage(A, B, failures=("c",)), first.planned)
    assert [failure.sentence for failure in later.failures] == ["c: gone"]
    assert later.expected_tiles == 3


def test_a_tile_that_was_imaged_again_takes_the_place_of_the_old_one() -> None:
    first = with_plan(montage(A, B, C), ())
    later = with_plan(montage(A, B, ("c2", 1, 0)), first.planned)
    assert (later.failures, later.expected_tiles) == ((), 3)


def test_the_plan_of_the_microscope_is_not_counted_twice() -> None:
    first = with_plan(montage(A, B, C, expected=9), ())
    later = with_plan(montage(A, B, expected=9), first.planned)
    assert (len(later.failures), later.expected_tiles) == (1, 9)


def test_a_damaged_record_of_a_montage_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path))
    store.write_bytes(layout.montage("m"), b'{"acquisition_id": "half')
    found = as_first_planned(montage(A, B), store)
    assert (found.failures, found.expected_tiles) == ((), 2)
    assert "is not a Montage" in caplog.text
