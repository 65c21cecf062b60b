"""Raw frames -> 8-bit tiles in the store, their statistics, and their matches.

What the pipeline made live by the same recipe is adopted (live_products.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from em_platform.acquisition.frame_paths import frames_folder, montage_folder
from em_platform.acquisition.live_products import LiveTile, adopt_matches, adopt_tile
from em_platform.acquisition.montages.stored import (
    choose_lens,
    keep_truth,
    located,
)
from em_platform.config import MatchSettings, Settings, TileSettings
from em_platform.formats import encode_tiff
from em_platform.model import (
    Failure,
    LensModel,
    Montage,
    Tile,
    TileMatch,
    TileStats,
)
from em_platform.stitching.compute import Mapper, serial, thread_map
from em_platform.stitching.match import match_pairs
from em_platform.stitching.neighbours import find_neighbours
from em_platform.stitching.recipe import (
    Recipe,
    TileRecipe,
    choose_recipe,
    folder_of,
    processed_images,
)
from em_platform.stitching.recipe_file import (
    encode_recipe,
    keep_planes,
    read_recipe,
    read_tile_recipe,
    recipe_beside,
)
from em_platform.stitching.tile_images import (
    TileImages,
    exclude_tiles,
    process_tile_file,
)
from em_platform.storage import Store, layout

_BLOCK_TILES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedTiles:
    """The montage whose tiles point at the finished images, and their statistics.

    `adopted` of them were made by the pipeline.
    """

    montage: Montage
    statistics: tuple[TileStats, ...]
    adopted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedTiles:
    """The matches of a montage, with the lens that corrects them.

    `adopted` of them were measured by the pipeline.
    """

    matches: tuple[TileMatch, ...]
    lens: LensModel | None
    adopted: int = 0


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
    # flip is of this camera: frames from elsewhere are taken as they are
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
    montage: Montage, settings: Settings, store: Store, *, run: Mapper = serial
) -> ProcessedTiles:
    """As `process_tiles`, by the montage's recipe; the store keeps it, and the truth.

    A frame that leaves the disk meanwhile is read elsewhere:

    The buffer deletes frames once aloha has verified them; then aloha's are taken.
    """
    keep_truth(montage, _folder_of(montage, settings), store)
    montage = located(montage, store)
    while True:
        recipe = recipe_of(montage, settings, store)
        _keep(recipe, montage.acquisition_id, store)
        # threads: reading, writing and SHA-256 leave Python's lock
        live = adopt_tiles(
            montage, recipe.tile, store, run=thread_map(settings.dask.workers)
        )
        images = recipe.images(store.options)
        done = process_tiles(montage, images, store, adopted=live, run=run)
        moved = located(montage, store)
        if moved == montage or len(done.montage.tiles) == len(montage.tiles):
            return done
        montage = moved


def adopt_tiles(
    montage: Montage, recipe: TileRecipe, store: Store, *, run: Mapper = serial
) -> dict[str, LiveTile]:
    """Copy the tiles that the pipeline made by this recipe, where they are proved."""
    if not recipe.is_live:
        return {}
    act = partial(_adopt, recipe=recipe, store=store, key=montage.acquisition_id)
    live = run(act, montage.tiles)
    return {each.statistics.tile_id: each for each in live if each is not None}


def process_tiles(
    montage: Montage,
    images: TileImages,
    store: Store,
    *,
    adopted: Mapping[str, LiveTile] | None = None,
    run: Mapper = serial,
) -> ProcessedTiles:
    """Finish every tile and write it into the store; a bad one is rejected.

    Those that are `adopted` are there already. The same frames give the same bytes.

    Raises
    ------
    DataError
        Not one tile could be finished.
    StorageError
        The store did not take a tile.
    """
    key, live = montage.acquisition_id, adopted or {}
    found: dict[str, TileStats | Failure] = {t: live[t].statistics for t in live}
    act = partial(_finish_block, images=images, store=store, key=key)
    rest = [tile for tile in montage.tiles if tile.tile_id not in live]
    for block in run(act, _blocks(rest)):
        found |= block
    # in the montage's order, not in that in which the blocks end
    in_order = [found[tile.tile_id] for tile in montage.tiles]
    failures = [each for each in in_order if isinstance(each, Failure)]
    montage = exclude_tiles(montage, failures)
    tiles = tuple(
        tile.model_copy(
            update={
                "uri": _uri(store, key, tile),
                # Only of these it is known to which bytes the live matches belong.
                "sha256": live[tile.tile_id].sha256 if tile.tile_id in live else None,
            }
        )
        for tile in montage.tiles
    )
    return ProcessedTiles(
        montage=montage.model_copy(update={"tiles": tiles}),
        statistics=tuple(each for each in in_order if isinstance(each, TileStats)),
        adopted=len(live),
    )


def match_montage(
    montage: Montage, settings: MatchSettings, store: Store, *, run: Mapper = serial
) -> MatchedTiles:
    """The matches of processed tiles; those that the pipeline measured are adopted.

    Parameters
    ----------
    montage
        As `process_tiles` has written it.
    """
    key = montage.acquisition_id
    lens = choose_lens(montage, store)
    recipe = read_tile_recipe(store.url(layout.recipe(key)), store.options)
    adopted: dict[tuple[str, str], TileMatch] = {}
    if recipe is not None and recipe.is_live:
        # as imaged: live matches are kept beside the frames
        imaged = store.read(layout.montage(key), Montage)
        adopted = adopt_matches(
            find_neighbours(montage, min_overlap_px=settings.min_overlap_px),
            {tile.tile_id: tile.uri for tile in imaged.tiles},
            recipe=recipe,
            lens=lens,
            settings=settings,
        )
    matches = match_pairs(
        montage,
        processed_tiles(montage, store),
        settings=settings,
        lens=lens,
        existing=adopted,
        run=run,
    )
    return MatchedTiles(matches=matches, lens=lens, adopted=len(adopted))


def processed_tiles(montage: Montage, store: Store) -> TileImages:
    """How to read the tiles that `process_tiles` has written: as they are."""
    name = layout.recipe(montage.acquisition_id)
    kept = read_tile_recipe(store.url(name), store.options)
    if kept is None:  # they were written by a version that kept no recipe
        as_they_are = TileSettings(flat_field="none")
        kept = choose_recipe(montage, as_they_are, options=store.options).tile
    return processed_images(kept, store.options)


def _adopt(
    tile: Tile, *, recipe: TileRecipe, store: Store, key: str
) -> LiveTile | None:
    found = None if tile.mask_uri else adopt_tile(tile.uri, recipe)  # live has no masks
    if found is None or found.live.statistics.tile_id != tile.tile_id:
        return None
    stats = found.live.statistics
    if stats.minimum == stats.maximum:  # shows nothing: to be rejected as any such tile
        return None
    store.write_bytes(layout.tile(key, tile.tile_id), found.content)
    return found.live


def _blocks(tiles: Sequence[Tile]) -> Iterator[Sequence[Tile]]:
    for start in range(0, len(tiles), _BLOCK_TILES):
        yield tiles[start : start + _BLOCK_TILES]


def _finish_block(
    tiles: Sequence[Tile], *, images: TileImages, store: Store, key: str
) -> dict[str, TileStats | Failure]:
    return {
        tile.tile_id: _finish(tile, images=images, store=store, key=key)
        for tile in tiles
    }


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
