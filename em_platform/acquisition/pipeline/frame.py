"""One raw frame becomes a processed one and what the messages say of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.pipeline.live_recipes import LiveRecipes
from em_platform.acquisition.pipeline.noted import NotedTile, Shape
from em_platform.acquisition.pipeline.pictures import preview_and_mini
from em_platform.config.acquisition import PipelineSettings
from em_platform.formats import encode_tiff, read_image
from em_platform.imaging.tile import ProcessedTile
from em_platform.model import Box, TileStats
from em_platform.stitching.measure import process_pixels
from em_platform.storage.atomic import whole_file

Message = tuple[str, dict[str, Any]]
"""A topic and the fields of a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedFrame:
    """The 8-bit tile, and where it shows specimen."""

    tile: ProcessedTile
    shape: Shape


def process_frame(noted: NotedTile, recipes: LiveRecipes) -> ProcessedFrame:
    """Read the frame of a tile and finish it by the recipe of its montage.

    Raises
    ------
    DataError
        The frame cannot be read, is not a grey image, or of another size.
    StorageError
        The recipe, decided by this frame, cannot be kept.
    """
    raw = read_image(noted.path)
    recipe = recipes.of(noted, raw)
    images, size = recipe.images(), recipe.tile.size
    tile = process_pixels(images.orient(raw), images, tile_id=noted.tile_id)
    whole = Box(y0=0, x0=0, y1=size.height_px, x1=size.width_px)
    shape = Shape(size=size, valid=recipe.tile.valid_box or whole)
    return ProcessedFrame(tile=tile, shape=shape)


def write_processed(noted: NotedTile, image: NDArray[np.uint8]) -> None:
    """Put the processed TIFF beside the frame, whole or not at all.

    It is not forced to the disk: the raw frame is the master, from which it can be made
    again after a power cut.
    """
    with whole_file(Path(noted.processed_path)) as beside:
        beside.write_bytes(encode_tiff(image))


def results(
    noted: NotedTile, done: ProcessedFrame, settings: PipelineSettings
) -> list[Message]:
    """The messages that need no neighbour."""
    stats, fields = done.tile.stats, noted.fields()
    longer_px = max(done.tile.image.shape)
    preview, mini = preview_and_mini(done.tile.half, settings, longer_px=longer_px)
    said: list[Message] = [
        ("tile.statistics.min_max_mean", fields | _figures(stats)),
        # Upstream's focus falls as the image gets sharper; ours rises.
        ("tile.statistics.focus", fields | {"focus": 1.0 - stats.focus}),
        ("tile.statistics.histogram", fields | {"hist": list(stats.histogram)}),
        ("tile.preview", fields | {"image": preview}),
    ]
    if noted.montage:
        said += [
            ("tile.mini", fields | {"image": mini}),
            ("tile.processed", fields | {"path": noted.processed_path}),
        ]
    return said


def _figures(stats: TileStats) -> dict[str, int]:
    return {
        "min": stats.minimum,
        "max": stats.maximum,
        "mean": round(stats.mean),
        "std": round(stats.std),
    }
