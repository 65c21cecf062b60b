"""TIFF images and stacks as PNG."""

from pathlib import Path

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

from em_platform.cryoem.images.parameters import ImageParameters
from em_platform.cryoem.methods.pictures import (
    animation,
    encoded,
    shrunk,
    write_picture,
)
from em_platform.errors import DataError, FormatError

_COLOURS = {
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "cyan": (0, 1, 1),
    "magenta": (1, 0, 1), "yellow": (1, 1, 0), "gray": (1, 1, 1),
}  # fmt: skip


def tiff_to_apng(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """The pages of an 8-bit TIFF, grey or colour, as one PNG."""
    path = given.input()
    name = Path(given.need("outfile")).name
    if given.color is not None and given.color.lower() not in _COLOURS:
        raise DataError(
            f"{path}: found the colour {given.color}, one of {', '.join(_COLOURS)} was "
            "expected; name one"
        )
    frames = [_frame(page, given) for page in _pages(path)]
    one = len(frames) == 1
    content = (
        encoded(PIL.Image.fromarray(frames[0]), ".png") if one else animation(frames)
    )
    write_picture(folder / name, content, inputs=given.inputs)
    return (name,)


def _pages(path: Path) -> list[NDArray[np.uint8]]:
    try:
        with tifffile.TiffFile(path) as file:
            pages = [page.asarray() for page in file.pages]
    except (OSError, ValueError) as error:
        raise FormatError(
            f"{path}: cannot be read as TIFF ({error}); copy it again"
        ) from error
    kinds = {(page.dtype.name, page.ndim, page.shape) for page in pages}
    if len(kinds) != 1 or pages[0].dtype != np.uint8 or pages[0].ndim not in (2, 3):
        found = ", ".join(sorted(f"{k[0]} {k[2]}" for k in kinds)[:2])
        raise DataError(
            f"{path}: found pages of {found or 'nothing'}, 8-bit pages of one size "
            "were expected; convert it"
        )
    return pages


def _frame(page: NDArray[np.uint8], given: ImageParameters) -> NDArray[np.uint8]:
    picture = PIL.Image.fromarray(page)
    if given.target_size and all(given.target_size):
        picture = shrunk(picture, (given.target_size[1], given.target_size[0]))
    frame = np.asarray(picture)
    if given.color is not None and frame.ndim == 2:
        frame = frame[..., None] * np.asarray(_COLOURS[given.color.lower()], np.uint8)
    return frame
