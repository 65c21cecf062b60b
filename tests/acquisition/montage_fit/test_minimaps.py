"""The montage's picture and the focus map show what lies where."""

import base64

import cv2
import numpy as np
import pytest

from em_platform.acquisition.montage_fit.growing import GrowingTile
from em_platform.acquisition.montage_fit.minimaps import (
    focus_map,
    montage_map,
    montage_picture,
)
from em_platform.model import MontageFit, Size, TilePlacement

SIZE = Size(height_px=100, width_px=100)


def tile(row: int, column: int, grey: int, *, focus: float | None = None):
    _, content = cv2.imencode(".png", np.full((50, 50), grey, np.uint8))
    return GrowingTile(
        tile_id=f"{row}-{column}",
        cell=(row, column),
        mini=content.tobytes(),
        focus=focus,
    )


def fitted(*places: tuple[str, float, float]) -> MontageFit:
    placements = tuple(TilePlacement(tile_id=t, y_px=y, x_px=x) for t, y, x in places)
    return MontageFit(
        acquisition_id="a", placements=placements, matches=(), residual_px=0.0
    )


def by_id(*tiles: GrowingTile) -> dict[str, GrowingTile]:
    return {each.tile_id: each for each in tiles}


def test_minis_lie_at_their_fitted_places() -> None:
    tiles = by_id(tile(0, 0, 10), tile(0, 1, 100), tile(1, 0, 200))
    fit = fitted(("0-0", 5, 5), ("0-1", 5, 85), ("1-0", 105, 5))
    picture = montage_picture(tiles, fit, size=SIZE, longest_px=1024)
    assert picture is not None
    assert picture.shape == (100, 90)  # 200 x 180 px, as fine as the minis
    assert picture[20, 20] == 10
    assert picture[20, 60] == 100
    assert picture[70, 20] == 200
    assert picture[70, 70] == 233  # no tile


def test_a_large_montage_is_made_small() -> None:
    tiles = by_id(*(tile(0, column, 100) for column in range(30)))
    fit = fitted(*((f"0-{column}", 0, 90 * column) for column in range(30)))
    picture = montage_picture(tiles, fit, size=SIZE, longest_px=300)
    assert picture is not None
    assert picture.shape[1] == 300
    assert (picture == 100).all()
    assert montage_picture({}, fit, size=SIZE, longest_px=300) is None


def picture(text: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), 1)


def test_sharp_cells_are_bright_and_unknown_ones_pale() -> None:
    tiles = by_id(
        tile(3, 5, 0, focus=0.5), tile(3, 6, 0, focus=0.25), tile(4, 6, 0, focus=None)
    )
    published = focus_map(tiles)
    assert (published["min"], published["max"]) == (
        0.5,
        0.75,
    )  # the message has 1 - focus
    cells = picture(published["image"])
    side = cells.shape[0] // 2
    assert cells.shape == (2 * side, 2 * side, 3)
    middle = cells[side // 2 :: side, side // 2 :: side].astype(int)
    sharp, blurred, unknown = middle[0, 0], middle[0, 1], middle[1, 1]
    assert sharp.sum() > blurred.sum() + 100
    assert unknown.tolist() == [233] * 3
    bar = picture(published["colorbar"])
    assert bar[0, 0].tolist() == sharp.tolist()  # its left end is the minimum
    assert bar[0, -1].tolist() == blurred.tolist()


@pytest.mark.parametrize("focus", [None, 0.5])
def test_one_value_or_none_gives_a_map_too(focus: float | None) -> None:
    published = focus_map(by_id(tile(0, 0, 0, focus=focus)))
    assert published["max"] == published["min"] == focus
    assert (published["image"] is None) == (focus is None)
    grey = montage_map({}, fitted(), size=SIZE, longest_px=64)
    assert grey["image"] is None
    assert picture(grey["colorbar"]).shape == (16, 256, 3)
