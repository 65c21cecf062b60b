"""Raw frames -> 8-bit tiles in the store, each with what its pixels say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from em_platform.acquisition.frame_paths import frames_folder, montage_folder
from em_platform.acquisition.montages.uploaded import located
from em_platform.config import Settings, TileSettings
from em_platform.formats import encode_tiff
from em_platform.model import Failure, Montage, Tile, TileStats
from em_platform.stitching.compute import Map, serial
from em_platform.stitching.measure import exclude_tiles, process_tile_file
from em_platform.stitching.recipe import Recipe, choose_recipe, folder_of
from em_platform.stitching.recipe_file import (
    encode_recipe,
    keep_planes,
    read_recipe,
    read_tile_recipe,
    recipe_beside,
)
from em_platform.stitching.tile_images import TileImages
from em_platform.storage import Store, layout

_BLOCK_TILES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedTiles:
    """The montage whose tiles point at the finished images, and their statistics."""

    montage: Montage
    statistics: tuple[TileStats, ...]


def recipe_of(montage: Montage, settings: Settings, store: Store) -> Recipe:
    """How the frames of a montage become 8-bit images.

    As in the live session, as long as the settings still ask for the same. That recipe
    lies beside the frames; where these have gone, the store has it from an earlier run.
    """
    live = _live_recipe(montage, settings, store)
    return live or _decided(montage, settings, store)


def _keep(recipe: Recipe, acquisition_id: str, store: Store) -> None:
    name = layout.recipe(acquisition_id)
    keep_planes(recipe, name, partial(_write_new, store))
    store.write_bytes(name, encode_recipe(recipe))


def _write_new(store: Store, name: str, content: bytes) -> None:
    if not store.exists(name):  # its name says its content, which may be large
        store.write_bytes(name, content)


def _live_recipe(montage: Montage, settings: Settings, store: Store) -> Recipe | None:
    key, flip = montage.acquisition_id, settings.acquisition.pipeline.flip
    found = recipe_beside(montage, _folder_of(montage, settings))
    found = found or read_recipe(store.url(layout.recipe(key)), store.options)
    if found is None or not found.tile.is_live:
        return None
    return found if found.tile.follows(settings.stitching.tile, flip=flip) else None


def _decided(montage: Montage, settings: Settings, store: Store) -> Recipe:
    folder = _folder_of(montage, settings)
    is_of_camera = Path(folder).parent == frames_folder(settings)
    return choose_recipe(
        montage,
        settings.stitching.tile,
        options=store.options,
        references=folder,
        flip=is_of_camera and settings.acquisition.pipeline.flip,
    )


def _folder_of(montage: Montage, settings: Settings) -> str:
    """Where its frames lie or lay: what is beside them stays when they have gone."""
    if any("://" in tile.uri for tile in montage.tiles):
        return str(montage_folder(frames_folder(settings), montage.montage_id))
    return folder_of(montage)


def finish_montage(
    montage: Montage, settings: Settings, store: Store, *, run: Map = serial
) -> ProcessedTiles:
    """As `process_tiles`, by the recipe of the montage, which the store keeps.

    A frame that leaves the disk meanwhile is read elsewhere:

    The buffer deletes frames once aloha has verified them; then aloha's are taken.
    """
    montage = located(montage, store)
    while True:
        recipe = recipe_of(montage, settings, store)
        _keep(recipe, montage.acquisition_id, store)
        images = recipe.images(store.options)
        done = process_tiles(montage, images, store, run=run)
        moved = located(montage, store)
        if moved == montage or len(done.montage.tiles) == len(montage.tiles):
            return done
        montage = moved


def process_tiles(
    montage: Montage, images: TileImages, store: Store, *, run: Map = serial
) -> ProcessedTiles:
    """Finish every tile and write it into the store; a bad one is set aside.

    The same frames give the same bytes.

    Raises
    ------
    DataError
        Not one tile could be finished.
    StorageError
        The store did not take a tile.
    """
    key = montage.acquisition_id
    act = partial(_finish_block, images=images, store=store, key=key)
    found = [each for block in run(act, _blocks(montage.tiles)) for each in block]
    montage = exclude_tiles(
        montage, [each for each in found if isinstance(each, Failure)]
    )
    tiles = tuple(
        tile.model_copy(update={"uri": _uri(store, key, tile)})
        for tile in montage.tiles
    )
    return ProcessedTiles(
        montage=montage.model_copy(update={"tiles": tiles}),
        statistics=tuple(each for each in found if isinstance(each, TileStats)),
    )


def processed_images(montage: Montage, store: Store) -> TileImages:
    """How to read the tiles that `process_tiles` has written: as they are."""
    name = layout.recipe(montage.acquisition_id)
    kept = read_tile_recipe(store.url(name), store.options)
    if kept is None:  # they were written by a version that kept no recipe
        as_they_are = TileSettings(flat_field="none")
        kept = choose_recipe(montage, as_they_are, options=store.options).tile
    return TileImages(valid_box=kept.valid_box, options=store.options)


def _blocks(tiles: Sequence[Tile]) -> Iterator[Sequence[Tile]]:
    for start in range(0, len(tiles), _BLOCK_TILES):
        yield tiles[start : start + _BLOCK_TILES]


def _finish_block(
    tiles: Sequence[Tile], *, images: TileImages, store: Store, key: str
) -> list[TileStats | Failure]:
    return [_finish(tile, images=images, store=store, key=key) for tile in tiles]


def _finish(
    tile: Tile, *, images: TileImages, store: Store, key: str
) -> TileStats | Failure:
    done = process_tile_file(tile, images)
    if isinstance(done, Failure):
        return done
    store.write_bytes(layout.tile(key, tile.tile_id), encode_tiff(done.image))
    return done.stats


def _uri(store: Store, key: str, tile: Tile) -> str:
    name = layout.tile(key, tile.tile_id)
    local = store.local_path(name)
    return store.url(name) if local is None else str(local)
