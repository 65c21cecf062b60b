"""Images of tiles as the recipe asks for them, and what their pixels say."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import DataError, FormatError
from em_platform.formats import read_image
from em_platform.imaging.grey import to_grey
from em_platform.imaging.tile import ProcessedTile, process_tile
from em_platform.model import Box, Failure, Montage, Size, Tile, TileStats
from em_platform.model.sentences import size_of
from em_platform.stitching.compute import Mapper, serial
from em_platform.storage.layout import StorageOptions

if TYPE_CHECKING:
    from em_platform.imaging.correct import FlatField

T = TypeVar("T")
log = logging.getLogger(__name__)

# Tiles of one task: what a task costs is shared, and progress is still seen.
_BLOCK_TILES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TileImages:
    """Reads tiles as 8-bit images; can be sent to other processes.

    `grey_range` are the raw grey levels that become 0 and 255; None for tiles that are
    8-bit as they are. `valid_box` is the part of each frame that shows the specimen;
    None for all of it. With `flip` files are mirrored left to right when they are read,
    and all the rest is of mirrored tiles. With `flip_masks` these are tiles that were
    mirrored already, and only their masks are not. `options` are fsspec's.
    """

    flat_field: "FlatField | None" = None
    grey_range: tuple[float, float] | None = None
    valid_box: Box | None = None
    flip: bool = False
    flip_masks: bool = False
    options: StorageOptions = field(default_factory=dict, repr=False)

    def read(self, tile: Tile, box: Box | None = None) -> NDArray[np.uint8]:
        """Corrected grey levels of a tile, `(h, w)`, or of `box` of it.

        Raises
        ------
        FormatError
            The file cannot be read, or is not of the size that the montage says.
        """
        raw = self.read_raw(tile, box)
        flat = self.flat_field
        if flat is None and self.grey_range is None and raw.dtype == np.uint8:
            return raw
        where = np.s_[:, :] if box is None else np.s_[box.y0 : box.y1, box.x0 : box.x1]
        return to_grey(
            raw,
            gain=None if flat is None else flat.gain[where],
            dark=None if flat is None or flat.dark is None else flat.dark[where],
            grey_range=self.grey_range or _full_range(raw.dtype),
        )

    def read_raw(self, tile: Tile, box: Box | None = None) -> NDArray[Any]:
        """Grey levels as the camera gave them, `(h, w)`, or of `box` of it."""
        raw = self.orient(
            read_image(tile.uri, self._in_file(tile, box), options=self.options)
        )
        # A part cannot show how large the whole is.
        size = tile.size if box is None else None
        if size is not None and raw.shape != (size.height_px, size.width_px):
            raise FormatError(
                f"tile {tile.tile_id}: found {size_of(raw.shape)} in {tile.uri}, "
                f"expected {size}; image it again or leave it out",
                tile_id=tile.tile_id,
            )
        return raw

    def orient(self, raw: NDArray[Any]) -> NDArray[Any]:
        """A frame as its file has it, mirrored where that is asked for."""
        return np.ascontiguousarray(raw[:, ::-1]) if self.flip else raw

    def _in_file(self, tile: Tile, box: Box | None) -> Box | None:
        if box is None or not self.flip:
            return box
        width = tile.size.width_px
        return Box(y0=box.y0, x0=width - box.x1, y1=box.y1, x1=width - box.x0)

    def valid(self, tile: Tile) -> Box:
        """The part of a tile that shows the specimen: no camera frame, no mask."""
        box = self.valid_box or Box(
            y0=0, x0=0, y1=tile.size.height_px, x1=tile.size.width_px
        )
        if tile.mask_uri is None:
            return box
        inner = _bounds_of_mask(tile.mask_uri, tile.size, self._mask_options())
        y0, x0 = max(box.y0, inner.y0), max(box.x0, inner.x0)
        y1, x1 = min(box.y1, inner.y1), min(box.x1, inner.x1)
        return Box(y0=y0, x0=x0, y1=max(y0, y1), x1=max(x0, x1))

    def _mask_options(self) -> "_MaskOptions":
        # Text: a dict is no key of an lru_cache.
        options = json.dumps(dict(self.options), sort_keys=True)
        return options, self.flip or self.flip_masks

    def mask(self, tile: Tile) -> NDArray[np.bool_] | None:
        """True where a tile may be used, `(h, w)`; None where it has no mask."""
        if tile.mask_uri is None:
            return None
        return _read_mask(tile.mask_uri, tile.size, self._mask_options())


# fsspec's options as JSON, and whether the mask is mirrored as its tile was.
_MaskOptions = tuple[str, bool]


# A mask has as many pixels as its tile, and pairs come row by row: few are in use.
@lru_cache(maxsize=8)
def _read_mask(uri: str, size: Size, how: _MaskOptions) -> NDArray[np.bool_]:
    options, is_mirrored = how
    mask: NDArray[np.bool_] = read_image(uri, options=json.loads(options)) > 127
    if mask.shape != (size.height_px, size.width_px):
        raise FormatError(
            f"{uri}: found a mask of {size_of(mask.shape)}, expected {size} as its "
            "tile has; correct the list",
            uri=uri,
        )
    mask = np.ascontiguousarray(mask[:, ::-1]) if is_mirrored else mask
    # Every caller who asks gets this one array.
    mask.flags.writeable = False
    return mask


# A box is four numbers; it is asked for by the matches and by the mosaic.
@lru_cache(maxsize=64)
def _bounds_of_mask(uri: str, size: Size, how: _MaskOptions) -> Box:
    mask = _read_mask(uri, size, how)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Box(y0=0, x0=0, y1=0, x1=0)
    return Box(
        y0=int(rows[0]),
        x0=int(columns[0]),
        y1=int(rows[-1]) + 1,
        x1=int(columns[-1]) + 1,
    )


def _full_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        return 0.0, 1.0
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Statistics of the tiles that can be used, and the others with the reason."""

    stats: tuple[TileStats, ...]
    failures: tuple[Failure, ...]


def measure_tiles(
    montage: Montage, images: TileImages, *, run: Mapper = serial
) -> Survey:
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
        raw, valid = images.read_raw(tile), images.valid(tile)
    except FormatError as error:
        # That of a mask does not name the tile.
        who = "" if tile.tile_id in str(error) else f"tile {tile.tile_id}: "
        return _failure(tile, f"{who}{error}", kind=type(error).__name__)
    done = process_pixels(raw, images, tile_id=tile.tile_id, valid=valid)
    if done.stats.minimum < done.stats.maximum:
        return done
    grey = "black" if done.stats.maximum == 0 else f"of grey {done.stats.maximum}"
    return _failure(
        tile,
        f"tile {tile.tile_id}: found all pixels {grey}, expected specimen; image it "
        "again or leave it out",
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
    # The raw frame is the caller's, and may still be needed.
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
