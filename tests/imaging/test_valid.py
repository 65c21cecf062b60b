"""Black frames are cut, dark tissue is not."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.imaging.valid import valid_region
from em_platform.model import Box

EMPTY = Box(y0=0, x0=0, y1=0, x1=0)


def tissue(height: int = 200, width: int = 240, *, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(40, 220, (height, width)).astype(np.uint8)


def framed(box: Box, *, seed: int = 0, level: int = 0) -> NDArray[np.uint8]:
    image = np.full((200, 240), level, np.uint8)
    inside = np.s_[box.y0 : box.y1, box.x0 : box.x1]
    image[inside] = tissue(seed=seed)[inside]
    return image


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize(
    "box",
    [
        Box(y0=20, x0=30, y1=180, x1=200),
        Box(y0=0, x0=0, y1=150, x1=240),
        Box(y0=7, x0=0, y1=200, x1=240),
        Box(y0=0, x0=50, y1=200, x1=190),
    ],
)
def test_a_frame_is_cut_with_two_pixels_of_margin(box: Box, level: int) -> None:
    found = valid_region(framed(box, level=level))
    assert found.y0 - box.y0 == (2 if box.y0 else 0)
    assert found.x0 - box.x0 == (2 if box.x0 else 0)
    assert box.y1 - found.y1 == (2 if box.y1 < 200 else 0)
    assert box.x1 - found.x1 == (2 if box.x1 < 240 else 0)


def test_an_image_without_a_frame_is_valid_everywhere() -> None:
    assert valid_region(tissue()) == Box(y0=0, x0=0, y1=200, x1=240)


def test_dark_tissue_at_an_edge_stays() -> None:
    image = tissue()
    image[:, :60] //= 4  # a dark cell along the whole left edge
    image[:40, 100:160] = 0  # and a precipitate without any light
    assert valid_region(image) == Box(y0=0, x0=0, y1=200, x1=240)


def test_a_slanted_frame_is_cut_where_it_ends() -> None:
    turn = cv2.getRotationMatrix2D((120, 100), 1.0, 1.0)
    image = cv2.warpAffine(framed(Box(y0=20, x0=20, y1=180, x1=220)), turn, (240, 200))
    box = valid_region(np.asarray(image, np.uint8))
    inside = image[box.y0 : box.y1, box.x0 : box.x1]
    assert inside.min() > 10
    assert inside.size > 0.9 * 160 * 200


def test_16_bit_frames_have_a_dark_level_of_their_own() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(110, 3, (200, 240))
    image[30:170, 40:200] = rng.normal(5000, 800, (140, 160))
    assert valid_region(image.astype(np.uint16)) == Box(y0=32, x0=42, y1=168, x1=198)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_constant_grey_level_is_an_empty_region(level: int) -> None:
    assert valid_region(np.full((50, 60), level, np.uint8)) == EMPTY
    assert valid_region(np.zeros((0, 5), np.uint8)) == EMPTY


def test_a_black_tile_with_a_few_hot_pixels_is_empty() -> None:
    image = np.zeros((300, 300), np.uint8)
    image[17, 33] = image[200, 120] = 255
    assert valid_region(image) == EMPTY


def test_no_tile_shows_its_frame_in_the_region_of_several() -> None:
    boxes = [
        Box(y0=20, x0=30, y1=180, x1=200),
        Box(y0=16, x0=34, y1=184, x1=210),
        Box(y0=22, x0=30, y1=176, x1=206),
    ]
    tiles = [framed(box, seed=i) for i, box in enumerate(boxes)]
    tiles.append(np.zeros_like(tiles[0]))
    assert valid_region(tiles) == Box(y0=24, x0=36, y1=174, x1=198)
    assert valid_region([tiles[-1]]) == EMPTY
    assert valid_region([]) == EMPTY


def test_an_opaque_bar_over_one_tile_does_not_shrink_all() -> None:
    tiles = [framed(Box(y0=20, x0=30, y1=180, x1=200), seed=i) for i in range(4)]
    tiles[2][:, :120] = 0
    assert valid_region(tiles) == Box(y0=22, x0=32, y1=178, x1=198)


def test_the_frames_of_real_tiles_are_cut(shared_data: Path) -> None:
    folder = shared_data / "tem_tiles" / "render_stitch_2x2"
    truth = json.loads((shared_data / "truth.json").read_text())["render_stitch_2x2"]
    tiles = [
        np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)
        for path in sorted(folder.glob("col*.png"))
    ]
    assert len(tiles) == 4
    top, bottom = truth["valid_region_rows"]
    left, right = truth["valid_region_cols"]
    for tile in tiles:
        box = valid_region(tile)
        inside = tile[box.y0 : box.y1, box.x0 : box.x1]
        assert (inside == 0).mean() < 1e-3  # the frame is 4 to 10 % of a tile
        # The truth is the mask drawn for all four; each camera's frame differs a bit.
        assert box.y0 <= top
        assert box.x0 <= left
        assert abs(box.y1 - bottom) < 45
        assert abs(box.x1 - right) < 45


def test_the_mask_of_real_tiles_has_the_region_that_is_stated(
    shared_data: Path,
) -> None:
    path = shared_data / "tem_tiles" / "render_stitch_2x2" / "test_mask.png"
    mask = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)
    assert valid_region(mask) == Box(y0=51, x0=51, y1=1078, x1=1273)
