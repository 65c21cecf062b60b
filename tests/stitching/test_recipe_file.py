"""A recipe beside the frames is read again as it was, or not at all."""

import logging
from pathlib import Path

import numpy as np
import pytest

from em_platform.formats import write_tiff
from em_platform.imaging.correct import FlatField
from em_platform.model import Box, Montage, Size, Tile
from em_platform.stitching.flat_field import KnownFlatField
from em_platform.stitching.recipe import Recipe, TileRecipe, UsedFlatField
from em_platform.stitching.recipe_file import (
    encode_recipe,
    images_by,
    keep_planes,
    read_recipe,
    recipe_beside,
)

SIZE = Size(height_px=8, width_px=8)


def recipe() -> Recipe:
    planes = np.random.default_rng(1).normal(1, 0.1, (2, 8, 8)).astype(np.float32)
    flat = KnownFlatField(
        kind="acquired", field=FlatField(gain=planes[0], dark=planes[1])
    )
    tile = TileRecipe(
        size=SIZE,
        grey_range=(0.1, 4000.7),
        valid_box=Box(y0=1, x0=1, y1=7, x1=7),
        flat_field=UsedFlatField(kind="acquired", digest=flat.digest),
    )
    return Recipe(tile=tile, flat_field=flat)


def keep(folder: Path, name: str = "m-1.recipe.json") -> str:
    kept = recipe()
    uri = str(folder / name)
    keep_planes(kept, uri, lambda at, content: Path(at).write_bytes(content) and None)
    Path(uri).write_bytes(encode_recipe(kept))
    return uri


def montage(folder: Path, *names: str) -> Montage:
    tiles = []
    for column, name in enumerate(names):
        write_tiff(folder / name, np.zeros((8, 8), np.uint8))
        uri = str(folder / name)
        tile = Tile(
            tile_id=name, uri=uri, row=0, column=column, y_px=0, x_px=0, size=SIZE
        )
        tiles.append(tile)
    return Montage(
        acquisition_id="a",
        montage_id="m",
        tiles=tuple(tiles),
        tile_size=SIZE,
        expected_tiles=len(tiles),
    )


def test_what_is_kept_is_read_again_with_its_flat_field(tmp_path: Path) -> None:
    found, kept = read_recipe(keep(tmp_path)), recipe()
    assert found is not None
    assert found.tile == kept.tile
    assert found.tile.digest == kept.tile.digest
    assert found.flat_field is not None
    assert kept.flat_field is not None
    assert np.array_equal(found.flat_field.field.gain, kept.flat_field.field.gain)
    assert found.images().grey_range == (0.1, 4000.7)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_a_recipe_without_its_flat_field_counts_as_none(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    uri = keep(tmp_path)
    (planes,) = tmp_path.glob("*.npz")
    if damage is None:
        planes.unlink()
    else:
        planes.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert read_recipe(uri) is None
    assert "decided anew" in caplog.text


def test_a_recipe_is_found_by_its_own_tiles_only(tmp_path: Path) -> None:
    keep(tmp_path)
    own = montage(tmp_path, "m-1_000_000.tiff", "m-1_000_001.tiff")
    assert recipe_beside(own) is not None
    assert recipe_beside(montage(tmp_path, "m-10_000_000.tiff")) is None
    assert recipe_beside(own, str(tmp_path / "elsewhere")) is None


def test_tiles_that_were_made_by_it_are_read_as_they_are(tmp_path: Path) -> None:
    keep(tmp_path)
    made = montage(tmp_path, "m-1_000_000.processed.tiff")
    found = recipe_beside(made)
    assert found is not None
    images = images_by(found, made)
    assert images.flat_field is None
    assert images.grey_range is None
    assert images.valid_box == found.tile.valid_box
