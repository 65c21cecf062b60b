"""A recipe as it is kept: `<name>.recipe.json`, and beside it its flat field's planes.

`<name>` is the acquisition where it lies beside the frames, and `tiles` in the store.
"""

import logging
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from em_platform.errors import DataError, FormatError
from em_platform.formats import is_folder, join_uri, list_folder, open_source
from em_platform.model import Montage
from em_platform.stitching.flat_field import decode_planes, encode_planes
from em_platform.stitching.recipe import Recipe, TileRecipe, folder_of
from em_platform.stitching.sidecar_files import RECIPE, is_processed
from em_platform.stitching.tile_images import TileImages
from em_platform.storage.layout import StorageOptions

log = logging.getLogger(__name__)


def keep_planes(recipe: Recipe, name: str, write: Callable[[str, bytes], None]) -> None:
    """Put what the recipe at `name` refers to beside it, before the recipe itself."""
    used = recipe.tile.flat_field
    if used is not None and recipe.flat_field is not None:
        write(_planes_of(name, used.digest), encode_planes(recipe.flat_field.field))


def encode_recipe(recipe: Recipe) -> bytes:
    """The content of its file."""
    return recipe.tile.model_dump_json(indent=1).encode() + b"\n"


def read_recipe(uri: str, options: StorageOptions | None = None) -> Recipe | None:
    """The recipe that is kept at `uri`; None where there is none that can be used."""
    tile = read_tile_recipe(uri, options)
    if tile is None:
        return None
    try:
        return Recipe(tile=tile, flat_field=_planes(tile, uri, options))
    except DataError as error:
        log.warning("%s; the recipe is decided anew", error)
        return None


def read_tile_recipe(
    uri: str, options: StorageOptions | None = None
) -> TileRecipe | None:
    """As `read_recipe`, without the planes of its flat field."""
    try:
        content = open_source(uri, options, whole=True).all()
    # Missing or unreadable, both ways it is decided anew.
    except FormatError:
        return None
    try:
        return TileRecipe.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        log.warning("%s: not a recipe of tiles (%s); it is decided anew", uri, reason)
        return None


def recipe_beside(
    montage: Montage,
    folder: str | None = None,
    options: StorageOptions | None = None,
) -> Recipe | None:
    """The one whose name begins the ids of all tiles of a montage.

    It lies in `folder`, by default where the first tile does.
    """
    folder = folder or folder_of(montage)
    if not montage.tiles or not is_folder(folder, options):
        return None
    for name in list_folder(folder, options):
        stem = name.removesuffix(RECIPE)
        # Several acquisitions may share a folder: the ids choose.
        if stem != name and all(
            t.tile_id.startswith(f"{stem}_") for t in montage.tiles
        ):
            return read_recipe(join_uri(folder, name), options)
    return None


def images_by(
    recipe: Recipe, montage: Montage, options: StorageOptions | None = None
) -> TileImages:
    """Reads the tiles of a montage, be they raw frames or processed already."""
    if all(is_processed(tile.uri) for tile in montage.tiles):
        return recipe.processed_images(options)
    return recipe.images(options)


def _planes(tile: TileRecipe, uri: str, options: StorageOptions | None) -> Any:
    used = tile.flat_field
    if used is None:
        return None
    at = _planes_of(uri, used.digest)
    content = open_source(at, options, whole=True).all()
    found = decode_planes(content, kind=used.kind, uri=at)
    # Other planes would give other tiles under the digest of these.
    if found.digest != used.digest:
        raise DataError(f"{at}: damaged, its content is not that of the recipe")
    return found


def _planes_of(name: str, digest: str) -> str:
    # 64 bits keep names short; the whole digest is compared when it is read.
    return f"{name.removesuffix(RECIPE)}.{digest[:16]}.npz"
