"""Pictures of picks in a tomogram."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw

from em_platform.cryoem.images.parameters import ImageParameters
from em_platform.cryoem.images.volumes import SIDE_PX, volume_of
from em_platform.cryoem.methods.coordinates import Boxes3d, read_boxes_3d
from em_platform.cryoem.methods.pictures import (
    animation,
    encoded,
    faint,
    shrunk,
    write_picture,
)

_COLOUR, _WIDTH_PX = "#f52407", 4


def central_slice(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """The slice in the middle of a tomogram, with the particles that cross it."""
    path, boxes, name = _inputs(given, "_thumbnail.jpeg")
    volume = volume_of(path)
    middle = len(volume) // 2
    picture = _frame(volume[middle], middle, boxes, half_px=given.box_size // 2)
    write_picture(folder / name, encoded(picture, ".jpeg"), inputs=given.inputs)
    return (name,)


def apng(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """All slices one after another, each with the particles that cross it."""
    path, boxes, name = _inputs(given, "_movie.png")
    frames = [
        np.asarray(_frame(image, z, boxes, half_px=given.box_size // 2))
        for z, image in enumerate(volume_of(path))
    ]
    write_picture(folder / name, animation(frames), inputs=given.inputs)
    return (name,)


def _inputs(given: ImageParameters, ending: str) -> tuple[Path, Boxes3d, str]:
    picks = Path(given.need("coordinates_file"))
    return given.input(), read_boxes_3d(picks), f"{picks.stem}{ending}"


def _frame(
    image: NDArray[Any], z: int, boxes: Boxes3d, *, half_px: int
) -> PIL.Image.Image:
    levels = faint(image, of="slice")
    if levels is None:
        levels = np.zeros(image.shape, np.uint8)
    picture = PIL.Image.fromarray(levels).convert("RGB")
    pen = ImageDraw.Draw(picture)
    away = np.abs(boxes.z - z)
    for i in np.flatnonzero(away - boxes.depth // 2 <= 0):
        # A sphere is cut smaller the further the slice is from its middle; far boxes
        # that are deeper than wide have no cut left.
        wide, high = (
            np.sqrt(max(float(side[i] ** 2 - away[i] ** 2), 0.0)) / 2
            for side in (boxes.width, boxes.height)
        )
        x, y = boxes.x[i] + half_px, boxes.y[i] + half_px
        corners = [(x - wide, y - high), (x + wide, y + high)]
        pen.ellipse(corners, width=_WIDTH_PX, outline=_COLOUR)
    return shrunk(picture, (SIDE_PX, SIDE_PX))
