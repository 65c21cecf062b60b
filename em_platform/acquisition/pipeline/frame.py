"""One raw frame becomes a processed one, and the messages about it."""

import base64
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.live_products import frame_state, write_tile
from em_platform.acquisition.pipeline.journaled import JournaledTile, Shape
from em_platform.acquisition.pipeline.live_recipes import LiveRecipes
from em_platform.config.acquisition import PipelineSettings
from em_platform.formats import read_image
from em_platform.imaging.contrast import clahe
from em_platform.imaging.tile import ProcessedTile
from em_platform.messaging.topics import Body, inverted_focus
from em_platform.model import Box, TileStats
from em_platform.stitching.recipe import TileRecipe
from em_platform.stitching.tile_images import process_pixels

_JPEG_QUALITY = 85  # texture can be judged; twice as good is twice as long

Message = tuple[str, Body]
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


def process_frame(tile: JournaledTile, recipes: LiveRecipes) -> ProcessedFrame:
    """Read the frame of a tile and finish it by the recipe of its montage.

    Raises
    ------
    DataError
        The frame cannot be read, is not a grey image, or of another size.
    StorageError
        The recipe, decided by this frame, cannot be kept.
    """
    # Before the read: a frame that is replaced meanwhile then fails the proof.
    state = frame_state(tile.path)
    raw = read_image(tile.path)
    recipe = recipes.of(tile, raw)
    images, size = recipe.images(), recipe.tile.size
    made = process_pixels(images.orient(raw), images, tile_id=tile.tile_id)
    whole = Box(y0=0, x0=0, y1=size.height_px, x1=size.width_px)
    # No box: as far as is known the whole frame shows specimen.
    shape = Shape(size=size, valid=recipe.tile.valid_box or whole)
    return ProcessedFrame(tile=made, shape=shape, recipe=recipe.tile, state=state)


def write_processed(tile: JournaledTile, done: ProcessedFrame) -> None:
    """Put the tile and its proof beside the frame; StorageError as of `write_tile`."""
    write_tile(tile.path, done.tile, recipe=done.recipe, state=done.state)


def results(
    tile: JournaledTile, done: ProcessedFrame, settings: PipelineSettings
) -> list[Message]:
    """The messages that need no neighbour."""
    stats, fields = done.tile.stats, tile.fields()
    longer_px = max(done.tile.image.shape)
    preview, mini = preview_and_mini(done.tile.half, settings, longer_px=longer_px)
    messages: list[Message] = [
        ("tile.statistics.min_max_mean", fields | _figures(stats)),
        ("tile.statistics.focus", fields | {"focus": inverted_focus(stats.focus)}),
        ("tile.statistics.histogram", fields | {"hist": list(stats.histogram)}),
        ("tile.preview", fields | {"image": preview}),
    ]
    # A frame of no montage has no file of its own and no place in a map.
    if tile.montage:
        messages += [
            ("tile.mini", fields | {"image": mini}),
            ("tile.processed", fields | {"path": tile.processed_path}),
        ]
    return messages


def _figures(stats: TileStats) -> dict[str, int]:
    return {
        "min": stats.minimum,
        "max": stats.maximum,
        "mean": round(stats.mean),  # whole numbers: the topic has integers
        "std": round(stats.std),
    }


def preview_and_mini(
    half: NDArray[np.uint8], settings: PipelineSettings, *, longer_px: int
) -> tuple[str, str]:
    """Base64 JPEGs for `tile.preview` and `tile.mini`.

    Parameters
    ----------
    half
        `(h, w)` the tile at half its resolution.
    longer_px
        The longer side of the tile itself.
    """
    # CLAHE cuts the picture into 16 x 16 cells: each needs a pixel.
    if settings.clahe and min(half.shape) >= 16:
        half = clahe(half)
    preview = _shrunk(
        half,
        max(settings.preview_scale * longer_px, settings.preview_min_px),
    )
    # Of the preview, which has far fewer pixels to average than the half.
    mini = _shrunk(preview, max(settings.mini_scale * longer_px, settings.mini_min_px))
    return _jpeg(preview), _jpeg(mini)


def _shrunk(image: NDArray[np.uint8], longer_px: float) -> NDArray[np.uint8]:
    """At most so long; never enlarged."""
    scale = longer_px / max(image.shape)
    if scale >= 1.0:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape)
    # What OpenCV's manual names for shrinking: it leaves no moiré.
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _jpeg(image: NDArray[np.uint8]) -> str:
    _, content = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
    return base64.b64encode(content.tobytes()).decode("ascii")
