"""How a montage's tiles are read, and what their pixels say."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.config import TileSettings
from em_platform.errors import ConfigError, DataError, FormatError
from em_platform.formats.image import SUFFIXES, read_image
from em_platform.formats.source import list_folder
from em_platform.imaging.contrast import grey_range
from em_platform.imaging.correct import (
    FlatField,
    estimate_flat_field,
    flat_field_from_frames,
)
from em_platform.imaging.tile import ProcessedTile, process_tile
from em_platform.imaging.valid import valid_region
from em_platform.model import Box, Failure, Montage, Tile, TileStats
from em_platform.stitching.compute import Map, serial
from em_platform.stitching.tile_images import TileImages

T = TypeVar("T")
log = logging.getLogger(__name__)

_SAMPLE_TILES = 12
_MOST_FRAME = 0.12  # of a side
_FLAT_TILES = 49
_FLAT_PX = 512
_BLOCK_TILES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Statistics of the tiles that can be used, and the others with the reason."""

    stats: tuple[TileStats, ...]
    failures: tuple[Failure, ...]


def choose_images(
    montage: Montage,
    settings: TileSettings,
    *,
    options: Mapping[str, Any] | None = None,
    references: str | None = None,
) -> TileImages:
    """How the tiles of a montage become 8-bit images.

    A few tiles are looked at: for the black frame that all share, for the grey range
    where they are not 8-bit, and for the flat field where it is to be estimated. An
    acquired one lies in the folder `references`, by default beside the first tile.

    Raises
    ------
    ConfigError
        An acquired flat field is asked for, and no bright frame lies there.
    DataError
        None of the tiles looked at shows anything.
    """
    plain = TileImages(options=options or {})
    flat = _flat_field(montage, settings, images=plain, references=references)
    sample = _readable(montage.tiles, plain, count=_SAMPLE_TILES)
    box, dtype = _common_valid_box(sample, montage)
    return TileImages(
        flat_field=flat,
        grey_range=_grey_range(montage, settings, dtype=dtype, flat=flat, images=plain),
        valid_box=box,
        options=options or {},
    )


def _common_valid_box(
    sample: Iterable[NDArray[Any]], montage: Montage
) -> tuple[Box | None, np.dtype[Any]]:
    """The part of the frame that shows specimen in all tiles; None for all of it.

    Cameras of one microscope differ a little in their black frames, so that each side
    is cut as far as in the worst tile, unless that is more than a frame can be.
    """
    height, width = montage.tile_size.height_px, montage.tile_size.width_px
    cuts, dtype = [], np.dtype(np.uint8)
    for tile in sample:
        box, dtype = valid_region(tile), tile.dtype
        cuts.append((box.y0, box.x0, height - box.y1, width - box.x1))
    if not cuts:
        raise DataError(
            f"montage {montage.acquisition_id}: none of its {len(montage.tiles)} tiles "
            "shows anything, expected images; copy them again from the microscope"
        )
    most = _MOST_FRAME * np.array([height, width, height, width])
    worst = np.where(np.array(cuts) <= most, cuts, 0).max(axis=0).tolist()
    y0, x0, below, right = worst
    if not any(worst):
        return None, dtype
    return Box(y0=y0, x0=x0, y1=height - below, x1=width - right), dtype


def measure_tiles(montage: Montage, images: TileImages, *, run: Map = serial) -> Survey:
    """Read every tile once; say what its pixels say, or why it cannot be used."""
    measure = partial(_measure_block, images=images)
    blocks = list(_blocks(montage.tiles, _BLOCK_TILES))
    found = [each for block in run(measure, blocks) for each in block]
    return Survey(
        stats=tuple(f for f in found if isinstance(f, TileStats)),
        failures=tuple(f for f in found if isinstance(f, Failure)),
    )


def set_aside(montage: Montage, failures: Sequence[Failure]) -> Montage:
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


def finish_tile(tile: Tile, images: TileImages) -> ProcessedTile | Failure:
    """A tile as an 8-bit image with statistics, or why it cannot be used."""
    try:
        raw = images.read_raw(tile)
    except FormatError as error:
        return _failure(tile, str(error), kind=type(error).__name__)
    done = process_tile(
        raw,
        tile_id=tile.tile_id,
        flat_field=images.flat_field,
        grey_range=images.grey_range,
        valid=images.valid(tile),
    )
    if done.stats.minimum < done.stats.maximum:
        return done
    grey = "black" if done.stats.maximum == 0 else f"of grey {done.stats.maximum}"
    return _failure(
        tile,
        f"tile {tile.tile_id}: found all pixels {grey}, expected specimen; image it "
        "again or take it off the list",
        kind="FormatError",
    )


def _measure_block(
    tiles: Sequence[Tile], *, images: TileImages
) -> list[TileStats | Failure]:
    return [_measure(tile, images) for tile in tiles]


def _measure(tile: Tile, images: TileImages) -> TileStats | Failure:
    done = finish_tile(tile, images)
    return done if isinstance(done, Failure) else done.stats


def _flat_field(
    montage: Montage,
    settings: TileSettings,
    *,
    images: TileImages,
    references: str | None,
) -> FlatField | None:
    if settings.flat_field == "none":
        return None
    if settings.flat_field == "acquired":
        return _acquired(montage, images, references)
    small = [
        _reduced(tile) for tile in _readable(montage.tiles, images, count=_FLAT_TILES)
    ]
    gain = estimate_flat_field(small).gain
    size = montage.tile_size
    whole = cv2.resize(
        gain, (size.width_px, size.height_px), interpolation=cv2.INTER_LINEAR
    )
    return FlatField(gain=np.asarray(whole, dtype=np.float32))


def _reduced(tile: NDArray[Any]) -> NDArray[Any]:
    scale = _FLAT_PX / max(tile.shape)
    if scale >= 1:
        return tile
    return np.asarray(
        cv2.resize(tile, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    )


def _acquired(
    montage: Montage, images: TileImages, references: str | None
) -> FlatField:
    folder = references or montage.tiles[0].uri.rpartition("/")[0]
    frames: dict[str, NDArray[Any]] = {}
    for name in list_folder(folder, images.options):
        stem = name.partition(".")[0].lower()
        if stem in ("bright", "dark") and name.lower().endswith(SUFFIXES):
            frames[stem] = read_image(f"{folder}/{name}", options=images.options)
    if "bright" not in frames:
        raise ConfigError(
            f"stitching.tile.flat_field: found no bright.tif in {folder}, expected an "
            "image of the beam without specimen (and dark.tif without beam); put it "
            "there or choose estimate"
        )
    size = (montage.tile_size.height_px, montage.tile_size.width_px)
    if frames["bright"].shape != size:
        raise ConfigError(
            f"stitching.tile.flat_field: found {frames['bright'].shape} px in "
            f"bright of {folder}, expected {size} as in the tiles; give frames of this "
            "camera"
        )
    return flat_field_from_frames(frames["bright"], frames.get("dark"))


def _grey_range(
    montage: Montage,
    settings: TileSettings,
    *,
    dtype: np.dtype[Any],
    flat: FlatField | None,
    images: TileImages,
) -> tuple[float, float] | None:
    if settings.grey_range is not None:
        return settings.grey_range
    if dtype == np.uint8:
        return None
    sample = _readable(montage.tiles, images, count=_SAMPLE_TILES)
    return grey_range(sample, settings.percentiles, flat_field=flat)


def _readable(
    tiles: Sequence[Tile], images: TileImages, *, count: int
) -> Iterator[NDArray[Any]]:
    """Up to `count` tiles spread over the montage, without those that cannot be read.

    A tile of one constant grey level says nothing and is passed over too.
    """
    step = max(1, len(tiles) / count)
    spread = [tiles[int(n * step)] for n in range(min(count, len(tiles)))]
    for tile in spread:
        try:
            raw = images.read_raw(tile)
        except FormatError:
            continue
        if raw[::8, ::8].min() < raw[::8, ::8].max():
            yield raw


def _blocks(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _failure(tile: Tile, sentence: str, *, kind: str) -> Failure:
    log.info("%s", sentence)
    return Failure(item=tile.tile_id, error=kind, sentence=sentence)
