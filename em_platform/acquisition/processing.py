"""Raw frames -> 8-bit tiles in the store, each with what its pixels say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from em_platform.config import TileSettings
from em_platform.errors import DataError, FormatError
from em_platform.formats.tiff import encode_tiff
from em_platform.imaging.correct import FlatField
from em_platform.imaging.tile import process_tile
from em_platform.model import Box, Failure, Montage, Tile, TileStats
from em_platform.stitching.compute import Map, serial
from em_platform.stitching.measure import choose_images, set_aside
from em_platform.stitching.tile_images import TileImages
from em_platform.storage import Store, layout

_BLOCK_TILES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedTiles:
    """The montage whose tiles point at the finished images, and their statistics."""

    montage: Montage
    statistics: tuple[TileStats, ...]


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
    try:
        raw = images.read_raw(tile)
    except DataError as error:
        return _failure(tile, error)
    box = images.valid_box or Box(y0=0, x0=0, y1=raw.shape[0], x1=raw.shape[1])
    done = process_tile(
        raw[box.y0 : box.y1, box.x0 : box.x1],
        tile_id=tile.tile_id,
        flat_field=_cropped(images.flat_field, box),
        grey_range=images.grey_range,
    )
    if done.stats.minimum == done.stats.maximum:
        return _failure(tile, _blank(tile, done.stats.maximum))
    image = _framed(done.image, box, raw.shape)
    store.write_bytes(layout.tile(key, tile.tile_id), encode_tiff(image))
    return done.stats


def _framed(
    image: NDArray[np.uint8], box: Box, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """The image at its place in the whole frame, which is black elsewhere."""
    if image.shape == shape:
        return image
    whole = np.zeros(shape, np.uint8)
    whole[box.y0 : box.y1, box.x0 : box.x1] = image
    return whole


def _cropped(flat: FlatField | None, box: Box) -> FlatField | None:
    if flat is None:
        return None
    where = np.s_[box.y0 : box.y1, box.x0 : box.x1]
    dark = None if flat.dark is None else flat.dark[where]
    return FlatField(gain=flat.gain[where], dark=dark)


def _uri(store: Store, key: str, tile: Tile) -> str:
    name = layout.tile(key, tile.tile_id)
    local = store.local_path(name)
    return store.url(name) if local is None else str(local)


def _blank(tile: Tile, grey: int) -> FormatError:
    return FormatError(
        f"tile {tile.tile_id}: found all pixels of grey level {grey}, expected "
        "specimen; image it again or take it off the list"
    )


def _failure(tile: Tile, error: DataError) -> Failure:
    kind = type(error).__name__
    return Failure(item=tile.tile_id, error=kind, sentence=str(error))
