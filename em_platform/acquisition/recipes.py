"""The recipe of a montage, kept beside its frames from its first tile on."""

from functools import partial
from pathlib import Path

from em_platform.acquisition.frame_paths import acquisition_of
from em_platform.acquisition.recorder.events import safe_id
from em_platform.stitching.beside_frames import RECIPE
from em_platform.stitching.recipe import Recipe, TileRecipe
from em_platform.stitching.recipe_file import (
    encode_recipe,
    keep_planes,
    read_recipe,
    read_tile_recipe,
)
from em_platform.storage.atomic import write_bytes, write_once


def recipe_path(frame: str, acquisition_id: str) -> Path:
    """Of the recipe of a frame's acquisition."""
    return Path(frame).with_name(f"{safe_id(acquisition_id)}{RECIPE}")


def recipe_of_tile(frame: str, tile_id: str, montage_id: str) -> TileRecipe | None:
    """What was decided for the montage of a tile; None where nothing is yet."""
    acquisition_id = acquisition_of(tile_id)
    # A tile that another system has named: all of its montage go together.
    own = acquisition_id if acquisition_id != tile_id else montage_id
    return read_tile_recipe(str(recipe_path(frame, own)))


def keep_first(recipe: Recipe, path: Path) -> Recipe:
    """Keep a recipe at `path`; the one that counts: that of the process that was first.

    Raises
    ------
    StorageError
        The disk does not take it.
    """
    keep_planes(recipe, str(path), lambda name, content: _write(Path(name), content))
    write = partial(write_once, path, encode_recipe(recipe))
    if write():
        return recipe
    first = read_recipe(str(path))
    if first is None:  # one that cannot be used must not stand in the way for ever
        write_bytes(path, encode_recipe(recipe))
    return first or recipe


def _write(path: Path, content: bytes) -> None:
    if not path.is_file():  # its name says its content
        write_bytes(path, content)
