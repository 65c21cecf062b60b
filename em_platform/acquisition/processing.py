"""Raw frames -> 8-bit tiles in the store, each with what its pixels say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.frame_paths import frames_folder, montage_folder
from em_platform.acquisition.uploaded import located
from em_platform.config import Settings, TileSettings
from em_platform.formats.tiff import encode_tiff
from em_platform.model import Box, Failure, Montage, Tile, TileStats
from em_platform.stitching.compute import Map, serial
from em_platform.stitching.measure import choose_images, finish_tile, set_aside
from em_platform.stitching.tile_images import TileImages
from em_platform.storage import Store, layout

_BLOCK_TILES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedTiles:
    """The montage whose tiles point at the finished images, and their statistics."""

    montage: Montage
    statistics: tuple[TileStats, ...]


def images_of(montage: Montage, settings: Settings, store: Store) -> TileImages:
    """How the frames of a montage become 8-bit images, wherever they lie now.

    The references of frames that have left the disk still lie where those did.
    """
    references = None
    if any("://" in tile.uri for tile in montage.tiles):
        references = str(montage_folder(frames_folder(settings), montage.montage_id))
    return choose_images(
        montage,
        settings.stitching.tile,
        options=store.options,
        references=references,
    )


def finish_montage(
    montage: Montage, settings: Settings, store: Store, *, run: Map = serial
) -> ProcessedTiles:
    """As `process_tiles`; a frame that leaves the disk meanwhile is read elsewhere.

    The buffer deletes frames once aloha has verified them; then aloha's are taken.
    """
    montage = located(montage, store)
    while True:
        images = images_of(montage, settings, store)
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
    montage = set_aside(montage, [each for each in found if isinstance(each, Failure)])
    tiles = tuple(
        tile.model_copy(update={"uri": _uri(store, key, tile)})
        for tile in montage.tiles
    )
    return ProcessedTiles(
        montage=montage.model_copy(update={"tiles": tiles}),
        statistics=tuple(each for each in found if isinstance(each, TileStats)),
    )


def finished_images(montage: Montage, store: Store) -> TileImages:
    """How to read the tiles that `process_tiles` has written: as they are."""
    as_they_are = TileSettings(flat_field="none")
    return choose_images(montage, as_they_are, options=store.options)


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
    done = finish_tile(tile, images)
    if isinstance(done, Failure):
        return done
    image = _without_frame(done.image, images.valid_box)
    store.write_bytes(layout.tile(key, tile.tile_id), encode_tiff(image))
    return done.stats


def _without_frame(image: NDArray[np.uint8], valid: Box | None) -> NDArray[np.uint8]:
    """The image, black outside of the region in which tiles show specimen."""
    if valid is None:
        return image
    whole = np.zeros_like(image)
    inside = np.s_[valid.y0 : valid.y1, valid.x0 : valid.x1]
    whole[inside] = image[inside]
    return whole


def _uri(store: Store, key: str, tile: Tile) -> str:
    name = layout.tile(key, tile.tile_id)
    local = store.local_path(name)
    return store.url(name) if local is None else str(local)
