"""One raw frame becomes a processed one and what the messages say of it."""

from dataclasses import dataclass
from typing import Any

from em_platform.acquisition.live_products import frame_state, write_tile
from em_platform.acquisition.pipeline.live_recipes import LiveRecipes
from em_platform.acquisition.pipeline.noted import NotedTile, Shape
from em_platform.acquisition.pipeline.pictures import preview_and_mini
from em_platform.config.acquisition import PipelineSettings
from em_platform.formats import read_image
from em_platform.imaging.tile import ProcessedTile
from em_platform.messaging.topics import inverted_focus
from em_platform.model import Box, TileStats
from em_platform.stitching.recipe import TileRecipe
from em_platform.stitching.tile_images import process_pixels

Message = tuple[str, dict[str, Any]]
"""A topic and the fields of a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedFrame:
    """The 8-bit tile, where it shows specimen, and of what and how it was made.

    `state` is that of the file of the frame before it was read.
    """

    tile: ProcessedTile
    shape: Shape
    recipe: TileRecipe
    state: tuple[int, int]


def process_frame(noted: NotedTile, recipes: LiveRecipes) -> ProcessedFrame:
    """Read the frame of a tile and finish it by the recipe of its montage.

    Raises
    ------
    DataError
        The frame cannot be read, is not a grey image, or of another size.
    StorageError
        The recipe, decided by this frame, cannot be kept.
    """
    state = frame_state(noted.path)
    raw = read_image(noted.path)
    recipe = recipes.of(noted, raw)
    images, size = recipe.images(), recipe.tile.size
    tile = process_pixels(images.orient(raw), images, tile_id=noted.tile_id)
    whole = Box(y0=0, x0=0, y1=size.height_px, x1=size.width_px)
    shape = Shape(size=size, valid=recipe.tile.valid_box or whole)
    return ProcessedFrame(tile=tile, shape=shape, recipe=recipe.tile, state=state)


def write_processed(noted: NotedTile, done: ProcessedFrame) -> None:
    """Put the tile and its proof beside the frame; StorageError as of `write_tile`."""
    write_tile(noted.path, done.tile, recipe=done.recipe, state=done.state)


def results(
    noted: NotedTile, done: ProcessedFrame, settings: PipelineSettings
) -> list[Message]:
    """The messages that need no neighbour."""
    stats, fields = done.tile.stats, noted.fields()
    longer_px = max(done.tile.image.shape)
    preview, mini = preview_and_mini(done.tile.half, settings, longer_px=longer_px)
    said: list[Message] = [
        ("tile.statistics.min_max_mean", fields | _figures(stats)),
        ("tile.statistics.focus", fields | {"focus": inverted_focus(stats.focus)}),
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
