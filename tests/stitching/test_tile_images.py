import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from em_platform.errors import FormatError
from em_platform.formats import write_tiff
from em_platform.imaging.correct import FlatField
from em_platform.model import Box, Size, Tile
from em_platform.stitching.recipe import Recipe, TileRecipe
from em_platform.stitching.tile_images import TileImages


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
    with pytest.raises(FormatError, match=r"found 60 x 80 px .* expected 64 x 80"):
        TileImages().read(tile(tmp_path / "a.tif", height=64))


def test_it_can_be_sent_to_another_process() -> None:
    images = TileImages(grey_range=(1.0, 2.0), options={"key": "secret"})
    assert pickle.loads(pickle.dumps(images)) == images
    assert "secret" not in repr(images)
