"""Pictures of micrographs, and of what was picked on them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageEnhance, ImageFilter

from em_platform.cryoem.images.parameters import ImageParameters, Point
from em_platform.cryoem.methods.coordinates import read_points
from em_platform.cryoem.methods.grid_bars import without_grid_bars
from em_platform.cryoem.methods.mapped_mrc import mapped, mapped_volume
from em_platform.cryoem.methods.pictures import (
    encoded,
    frames_of,
    shrunk,
    stretched,
    with_bar,
    write_picture,
)
from em_platform.errors import DataError

log = logging.getLogger(__name__)

_SIDE_PX = 1024
_ALL, _ALL_WIDTH_PX = "#f58a07", 8
_SELECTED, _SELECTED_WIDTH_PX = "#98df8a", 12


def mrc_to_jpeg(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """A picture of a micrograph, or of one or all slices of a stack."""
    path = given.input()
    # A stack of one image has numbered pictures, too: of the only class.
    images, _ = (mapped_volume if path.suffix == ".mrcs" else mapped)(path)
    suffix = given.output_suffix or ".jpeg"
    if images.ndim == 2:
        levels = stretched(images[::-1] if given.flip else images, of=path)
        picture = _micrograph(levels, given)
        write_picture(
            folder / f"{path.stem}{suffix}",
            encoded(picture, suffix),
            inputs=given.inputs,
        )
        return (f"{path.stem}{suffix}",)
    images = images[::-1] if given.flip else images
    # An empty class is black, and no reason to have no pictures of the others.
    frames = frames_of(images if given.all_frames else images[:1], of=path, sigmas=None)
    names = []
    for number, levels in enumerate(frames, 1):
        name = f"{path.stem}{f'_{number}' if given.all_frames else ''}{suffix}"
        content = encoded(PIL.Image.fromarray(levels), suffix)
        write_picture(folder / name, content, inputs=given.inputs)
        names.append(name)
    return tuple(names)


def _micrograph(levels: NDArray[np.uint8], given: ImageParameters) -> PIL.Image.Image:
    if given.pixel_spacing:
        length_px = levels.shape[0] / 3
        text = f"{given.pixel_spacing / 10 * length_px:.0f} nm"
        return with_bar(levels, length_px=length_px, text=text)
    size = given.thumbnail_x or _SIDE_PX, given.thumbnail_y or _SIDE_PX
    return shrunk(PIL.Image.fromarray(levels), size)


def picked_particles(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """A micrograph with a circle round each pick, green ones round the selected."""
    path = given.input()
    if path.suffix == ".jpeg":
        path = path.with_suffix(".mrc")
    image: NDArray[Any]
    image, pixel_a = mapped(path)
    if image.ndim != 2:
        raise DataError(
            f"{path}: found {len(image)} images, one micrograph was expected; name one"
        )
    name = (given.outfile or path.with_suffix(".jpeg")).name
    diameter_a = float(given.need("diameter"))
    radius = (diameter_a / (given.pixel_size or pixel_a or 1)) // 2
    contrast = given.contrast_factor
    if given.flatten_image and (flat := without_grid_bars(image)) is not None:
        image, contrast = flat, 1
    points = given.coordinates
    if not points and given.coordinates_file is not None:
        points = read_points(given.coordinates_file)
    picture = with_circles(
        stretched(image, of=path),
        radius=radius,
        points=points,
        selected=given.selected_coordinates,
        contrast=contrast,
    )
    write_picture(
        folder / name, encoded(picture, Path(name).suffix), inputs=given.inputs
    )
    if given.remove_input:
        # Services of others ask so for temporary images; we make none.
        log.info("picked_particles: %s stays, as em-platform did not make it", path)
    return (name,)


def with_circles(
    levels: NDArray[np.uint8],
    *,
    radius: float,
    points: tuple[Point, ...],
    selected: tuple[Point, ...] = (),
    contrast: float = 1,
    width: int = _ALL_WIDTH_PX,
) -> PIL.Image.Image:
    """A blurred picture with circles `(x, y)` of `radius`, all in pixels."""
    picture = PIL.Image.fromarray(levels).convert("RGB")
    picture = ImageEnhance.Contrast(picture).enhance(contrast)
    picture = picture.filter(ImageFilter.BLUR)
    pen = ImageDraw.Draw(picture)
    for some, colour, wide in (
        (points, _ALL, width),
        (selected, _SELECTED, _SELECTED_WIDTH_PX),
    ):
        for x, y in some:
            corners = [(x - radius, y - radius), (x + radius, y + radius)]
            pen.ellipse(corners, width=wide, outline=colour)
    return shrunk(picture, (_SIDE_PX, _SIDE_PX))
