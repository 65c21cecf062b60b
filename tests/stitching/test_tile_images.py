"""Tests of tile images."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from em_platform.config import TileSettings
from em_platform.errors import ConfigError, DataError, FormatError
from em_platform.formats import read_image, write_tiff
from em_platform.imaging.correct import FlatField
from em_platform.model import Box, Size, Tile
from em_platform.stitching.compute import thread_map
from em_platform.stitching.inputs import open_montage
from em_platform.stitching.recipe import Recipe, TileRecipe, choose_recipe
from em_platform.stitching.tile_images import (
    TileImages,
    exclude_tiles,
    measure_tiles,
    process_pixels,
)


def tile(
    path: Path, height: int = 60, width: int = 80, mask: str | None = None
) -> Tile:
    return Tile(
        tile_id="a",
        uri=str(path),
        row=0,
        column=0,
        y_px=0,
        x_px=0,
        size=Size(height_px=height, width_px=width),
        mask_uri=mask,
    )


def ramp(dtype: str = "uint8") -> np.ndarray[Any, Any]:
    y, x = np.mgrid[:60, :80]
    return (3 * y + x % 50).astype(dtype)


def test_8_bit_tiles_come_as_they_are(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", ramp())
    images = TileImages()
    assert np.array_equal(images.read(tile(tmp_path / "a.tif")), ramp())
    box = Box(y0=5, x0=6, y1=20, x1=30)
    assert np.array_equal(
        images.read(tile(tmp_path / "a.tif"), box), ramp()[5:20, 6:30]
    )


def test_16_bit_tiles_are_mapped_by_their_grey_range(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", ramp("uint16") * 100 + 1000)
    images = TileImages(grey_range=(1000.0, 1000.0 + 25500.0))
    assert np.array_equal(images.read(tile(tmp_path / "a.tif")), ramp())


def test_the_flat_field_is_taken_off_a_part_as_off_the_whole(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", ramp("uint16") + 7)
    gain = np.linspace(0.5, 2, 60 * 80, dtype=np.float32).reshape(60, 80)
    flat = FlatField(gain=gain, dark=np.full((60, 80), 7, np.float32))
    images = TileImages(flat_field=flat, grey_range=(0.0, 255.0))
    whole = images.read(tile(tmp_path / "a.tif"))
    assert np.abs(whole - np.clip(ramp() * gain, 0, 255)).max() <= 0.51
    box = Box(y0=9, x0=8, y1=33, x1=44)
    part = images.read(tile(tmp_path / "a.tif"), box)
    assert np.array_equal(part, whole[9:33, 8:44])


def test_the_valid_box_and_the_mask_are_both_honoured(tmp_path: Path) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 5:70] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    masked = tile(tmp_path / "a.tif", mask=str(tmp_path / "mask.png"))
    images = TileImages(valid_box=Box(y0=2, x0=20, y1=40, x1=79))
    assert images.valid(masked) == Box(y0=10, x0=20, y1=40, x1=70)
    found = images.mask(masked)
    assert found is not None
    assert found.dtype == bool
    assert np.array_equal(found, mask > 0)
    assert images.mask(tile(tmp_path / "a.tif")) is None
    whole = Box(y0=0, x0=0, y1=60, x1=80)
    assert TileImages().valid(tile(tmp_path / "a.tif")) == whole


def test_the_mask_of_a_mirrored_tile_is_mirrored_too(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", ramp())
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 5:30] = 255  # of the file: left of the middle
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    masked = tile(tmp_path / "a.tif", mask=str(tmp_path / "mask.png"))
    recipe = Recipe(tile=TileRecipe(size=masked.size, flip=True))
    for images in (recipe.images(), recipe.processed_images()):
        assert images.valid(masked) == Box(y0=10, x0=50, y1=50, x1=75)
        seen = images.mask(masked)
        assert seen is not None
        assert np.array_equal(seen, mask[:, ::-1] > 0)
    assert TileImages().valid(masked) == Box(y0=10, x0=5, y1=50, x1=30)


def test_a_tile_of_another_size_is_refused(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", ramp())
    with pytest.raises(FormatError, match=r"found 80 x 60 px .* expected 80 x 64"):
        TileImages().read(tile(tmp_path / "a.tif", height=64))


def test_it_can_be_sent_to_another_process() -> None:
    images = TileImages(grey_range=(1.0, 2.0), options={"key": "secret"})
    assert pickle.loads(pickle.dumps(images)) == images
    assert "secret" not in repr(images)


Cut = Callable[..., Any]


def change(folder: Path, act: Callable[[np.ndarray[Any, Any]], Any]) -> None:
    for path in folder.glob("*.tif"):
        write_tiff(path, act(read_image(str(path))))


def test_8_bit_tiles_without_frame_are_read_as_they_are(
    tmp_path: Path, cut_tiles: Cut
) -> None:
    cut_tiles(tmp_path)
    images = choose_recipe(open_montage(tmp_path), TileSettings()).images()
    assert images.flat_field is None
    assert images.grey_range is None
    assert images.valid_box is None


def test_the_frame_is_cut_as_far_as_in_the_worst_tile(
    tmp_path: Path, cut_tiles: Cut
) -> None:
    cut_tiles(tmp_path)
    wide = iter(range(9))

    def frame(tile: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        cut = 8 + next(wide)
        out = np.zeros_like(tile)
        out[cut:-5, 7:-12] = tile[cut:-5, 7:-12]
        return out

    change(tmp_path, frame)
    images = choose_recipe(open_montage(tmp_path), TileSettings()).images()
    box = images.valid_box
    assert box is not None
    # A frame may be soft, so that two more pixels are given away.
    assert (box.y0, box.x0, box.y1, box.x1) == pytest.approx((16, 7, 235, 228), abs=2)
    assert box.y0 >= 16


def test_16_bit_tiles_get_one_grey_range_for_all(
    tmp_path: Path, cut_tiles: Cut
) -> None:
    cut_tiles(tmp_path)
    change(tmp_path, lambda tile: tile.astype(np.uint16) * 100 + 500)
    montage = open_montage(tmp_path)
    images = choose_recipe(montage, TileSettings()).images()
    assert images.grey_range is not None
    low, high = images.grey_range
    assert 4500 < low < 7500
    assert 19000 < high < 22500
    grey = images.read(montage.tiles[0])
    assert grey.dtype == np.uint8
    assert grey.min() < 20
    assert grey.max() > 230
    fixed = choose_recipe(montage, TileSettings(grey_range=(0.0, 65535.0))).images()
    assert fixed.grey_range == (0.0, 65535.0)


def test_an_acquired_flat_field_makes_tiles_even_again(
    tmp_path: Path, cut_tiles: Cut
) -> None:
    cut_tiles(tmp_path)
    before = {p.name: read_image(str(p)).astype(float) for p in tmp_path.glob("r*.tif")}
    y, x = np.mgrid[-1:1:240j, -1:1:240j]
    light = 1 - 0.3 * (y**2 + x**2)
    change(tmp_path, lambda tile: (tile * light + 20).astype(np.uint8))
    settings = TileSettings(flat_field="acquired")
    with pytest.raises(ConfigError, match=r"found no bright\.tif in .*put it there"):
        choose_recipe(open_montage(tmp_path), settings)
    write_tiff(tmp_path / "bright.tif", (40000 * light + 2000).astype(np.uint16))
    write_tiff(tmp_path / "dark.tif", np.full((240, 240), 20, np.uint8))
    montage = open_montage(tmp_path)
    assert len(montage.tiles) == 9
    images = choose_recipe(montage, settings).images()
    read = images.read(montage.tiles[0]).astype(float)
    ratio = read / before[montage.tiles[0].tile_id]
    assert ratio.std() / ratio.mean() < 0.03


def test_a_bright_frame_of_another_camera_is_refused(
    tmp_path: Path, cut_tiles: Cut
) -> None:
    cut_tiles(tmp_path)
    write_tiff(tmp_path / "bright.tif", np.ones((100, 240), np.uint16))
    with pytest.raises(ConfigError, match="found 240 x 100 px in bright"):
        choose_recipe(open_montage(tmp_path), TileSettings(flat_field="acquired"))


def test_an_estimated_flat_field_follows_the_light(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[-1:1:600j, -1:1:700j]
    light = 1 - 0.2 * (y**2 + x**2) + 0.05 * x
    lines = ["file,x_px,y_px"]
    for number in range(30):
        grain = cv2.GaussianBlur(rng.normal(140, 40, (600, 700)), None, 2.0)
        write_tiff(tmp_path / f"{number}.tif", (grain * light).astype(np.uint8))
        lines.append(f"{number}.tif,{number * 650},0")
    (tmp_path / "tiles.csv").write_text("\n".join(lines))
    settings = TileSettings(flat_field="estimate")
    flat = choose_recipe(open_montage(tmp_path), settings).images().flat_field
    assert flat is not None
    assert flat.gain.shape == (600, 700)
    even = flat.gain * light
    assert even.std() / even.mean() < 0.012


def test_statistics_are_of_the_valid_part_and_the_same_on_threads(
    tmp_path: Path, cut_tiles: Cut
) -> None:
    cut_tiles(tmp_path)

    def frame(tile: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        out = np.zeros_like(tile)
        out[10:-10, 10:-10] = tile[10:-10, 10:-10]
        return out

    change(tmp_path, frame)
    montage = open_montage(tmp_path)
    images = choose_recipe(montage, TileSettings()).images()
    survey = measure_tiles(montage, images)
    assert survey.failures == ()
    assert [s.tile_id for s in survey.stats] == [t.tile_id for t in montage.tiles]
    assert all(s.minimum > 30 and s.saturated_fraction == 0 for s in survey.stats)
    assert measure_tiles(montage, images, run=thread_map(2)) == survey


def test_what_is_reject_is_recorded(tmp_path: Path, cut_tiles: Cut) -> None:
    cut_tiles(tmp_path)
    write_tiff(tmp_path / "r0c0.tif", np.zeros((240, 240), np.uint8))
    montage = open_montage(tmp_path)
    survey = measure_tiles(montage, choose_recipe(montage, TileSettings()).images())
    left = exclude_tiles(montage, survey.failures)
    assert len(left.tiles) == 8
    assert [f.item for f in left.failures] == ["r0c0.tif"]
    assert left.expected_tiles == 9
    all_black = [f.model_copy(update={"item": t.tile_id}) for t in montage.tiles
                 for f in survey.failures]  # fmt: skip
    with pytest.raises(DataError, match="found no tile that can be used"):
        exclude_tiles(montage, all_black)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_frame_that_is_not_quite_black_becomes_black_and_its_raw_stays(
    dtype: type[np.unsignedinteger[Any]],
) -> None:
    raw = np.random.default_rng(1).integers(90, 200, (40, 50)).astype(dtype)
    raw[:4], raw[:, -5:] = 2, 1
    before, box = raw.copy(), Box(y0=4, x0=0, y1=40, x1=45)
    images = TileImages(
        valid_box=box, grey_range=None if dtype == np.uint8 else (0.0, 255.0)
    )
    image = process_pixels(raw, images, tile_id="t").image
    assert np.array_equal(raw, before)
    assert not image[:4].any()
    assert not image[:, 45:].any()
    assert np.abs(image[4:, :45] - raw[4:, :45].astype(int)).max() <= 1
