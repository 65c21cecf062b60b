"""What the pixels of a montage's tiles say."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import DataError, FormatError
from em_platform.imaging.tile import ProcessedTile, process_tile
from em_platform.model import Box, Failure, Montage, Tile, TileStats
from em_platform.stitching.compute import Map, serial
from em_platform.stitching.tile_images import TileImages

T = TypeVar("T")
log = logging.getLogger(__name__)

_BLOCK_TILES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Statistics of the tiles that can be used, and the others with the reason."""

    stats: tuple[TileStats, ...]
    failures: tuple[Failure, ...]


def measure_tiles(montage: Montage, images: TileImages, *, run: Map = serial) -> Survey:
    """Read every tile once; say what its pixels say, or why it cannot be used."""
    measure = partial(_measure_block, images=images)
    blocks = list(_blocks(montage.tiles, _BLOCK_TILES))
    found = [each for block in run(measure, blocks) for each in block]
    return Survey(
        stats=tuple(f for f in found if isinstance(f, TileStats)),
        failures=tuple(f for f in found if isinstance(f, Failure)),
    )


def exclude_tiles(montage: Montage, failures: Sequence[Failure]) -> Montage:
    """The montage without the tiles of these failures, which are recorded in it.

    Raises
    ------
    DataError
        No tile is left.
    """
    lost = {failure.item for failure in failures}
    kept = tuple(tile for tile in montage.tiles if tile.tile_id not in lost)
    if not kept:
        raise DataError(
            f"montage {montage.acquisition_id}: found no tile that can be used, "
            f"expected at least one (first: {failures[0].sentence})"
        )
    return montage.model_copy(
        update={"tiles": kept, "failures": (*montage.failures, *failures)}
    )


def process_tile_file(tile: Tile, images: TileImages) -> ProcessedTile | Failure:
    """A tile as an 8-bit image with statistics, or why it cannot be used."""
    try:
        raw = images.read_raw(tile)
    except FormatError as error:
        return _failure(tile, str(error), kind=type(error).__name__)
    done = process_pixels(raw, images, tile_id=tile.tile_id, valid=images.valid(tile))
    if done.stats.minimum < done.stats.maximum:
        return done
    grey = "black" if done.stats.maximum == 0 else f"of grey {done.stats.maximum}"
    return _failure(
        tile,
        f"tile {tile.tile_id}: found all pixels {grey}, expected specimen; image it "
        "again or take it off the list",
        kind="FormatError",
    )


def process_pixels(
    raw: NDArray[Any], images: TileImages, *, tile_id: str, valid: Box | None = None
) -> ProcessedTile:
    """A frame that was read, as `images` says; black outside of the valid box.

    Parameters
    ----------
    raw
        `(h, w)`, oriented by `images`.
    valid
        Only these pixels count in the statistics; by default those of the valid box.

    Raises
    ------
    DataError
        It is no grey image, or of another size than the flat field.
    """
    done = process_tile(
        raw,
        tile_id=tile_id,
        flat_field=images.flat_field,
        grey_range=images.grey_range,
        valid=valid or images.valid_box,
    )
    return replace(done, image=_without_frame(done.image, images.valid_box, raw))


def _without_frame(
    image: NDArray[np.uint8], valid: Box | None, raw: NDArray[Any]
) -> NDArray[np.uint8]:
    """The image, which may be `raw` itself, black outside of `valid`."""
    if valid is None:
        return image
    rows = np.s_[valid.y0 : valid.y1]
    frame = (
        np.s_[: valid.y0, :],
        np.s_[valid.y1 :, :],
        np.s_[rows, : valid.x0],
        np.s_[rows, valid.x1 :],
    )
    if not any(image[side].any() for side in frame):
        return image  # as most cameras deliver it: nothing is copied
    if np.may_share_memory(image, raw):
        image = image.copy()
    for side in frame:
        image[side] = 0
    return image


def _measure_block(
    tiles: Sequence[Tile], *, images: TileImages
) -> list[TileStats | Failure]:
    return [_measure(tile, images) for tile in tiles]


def _measure(tile: Tile, images: TileImages) -> TileStats | Failure:
    done = process_tile_file(tile, images)
    return done if isinstance(done, Failure) else done.stats


def _blocks(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _failure(tile: Tile, sentence: str, *, kind: str) -> Failure:
    log.info("%s", sentence)
    return Failure(item=tile.tile_id, error=kind, sentence=sentence)
