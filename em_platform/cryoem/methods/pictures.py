"""Grey levels, scale bars and files of the pictures that people look at.

Stretch, sizes, colours and the place of the scale bar are those of the images service
of cryoem-services 1.5, so that web pages made for its pictures show ours.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from em_platform.errors import DataError, OutputRefused
from em_platform.storage.atomic import write_bytes
from em_platform.storage.guard import check_file, mark_of, marked_png

Grey = NDArray[np.uint8]

KIND = "picture"
SUFFIXES = (".jpeg", ".jpg", ".png")

SIGMAS = 3.0
"""Grey levels further from the mean than this many deviations are clipped."""
_BAR_X_PX, _TEXT_X_PX, _BAR_WIDTH_PX, _TEXT_PX = 20, 25, 5, 26


def stretched(
    image: NDArray[Any], *, of: object, sigmas: float | None = SIGMAS
) -> Grey:
    """An image as 8-bit grey levels, from its darkest to its brightest pixel.

    Parameters
    ----------
    image
        `(h, w)`, of any real type.
    of
        What the sentence of an error names, such as the file.
    sigmas
        None: nothing is clipped before.

    Raises
    ------
    DataError
        All pixels are equal, or some are not numbers.
    """
    levels = faint(image, of=of, sigmas=sigmas)
    if levels is None:
        raise DataError(
            f"{of}: all pixels are {float(image.flat[0]):g}, an image was expected; "
            "look for a closed shutter or a failed step before this one"
        )
    return levels


def faint(
    image: NDArray[Any], *, of: object, sigmas: float | None = SIGMAS
) -> Grey | None:
    """As `stretched`, but None for an image without any contrast."""
    values = np.asarray(image, np.float32)
    low, high = (float(level) for level in cv2.minMaxLoc(values)[:2])
    mean, deviation = (float(found[0, 0]) for found in cv2.meanStdDev(values))
    if not np.isfinite([low, high, mean, deviation]).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise DataError(
            f"{of}: {bad} of {values.size} pixels are not numbers, finite values were "
            "expected; repeat the step that made this file",
            pixels=bad,
        )
    if sigmas is not None:
        low = max(low, mean - sigmas * deviation)
        high = min(high, mean + sigmas * deviation)
    if not high > low:
        return None
    scaled = np.clip(values, low, high)
    scaled -= np.float32(low)
    scaled *= np.float32(255 / (high - low))
    return np.minimum(scaled, 255, out=scaled).astype(np.uint8)


def frames_of(
    volume: Iterable[NDArray[Any]], *, of: object, sigmas: float | None = SIGMAS
) -> list[Grey]:
    """Each slice stretched by itself; one without contrast, as of padding, is black.

    Raises
    ------
    DataError
        No slice has contrast, or a pixel is not a number.
    """
    frames: list[Grey] = []
    blank = 0
    for image in volume:
        levels = faint(image, of=of, sigmas=sigmas)
        blank += levels is None
        frames.append(np.zeros(image.shape, np.uint8) if levels is None else levels)
    if blank == len(frames):
        raise DataError(
            f"{of}: none of its {blank} slices has any contrast, images were "
            "expected; repeat the step that made this file"
        )
    return frames


def within(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """An image, grey or colour, made small enough for a square."""
    return np.asarray(shrunk(PIL.Image.fromarray(image), (side_px, side_px)))


def shrunk(picture: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """A picture made small enough for `(width, height)`; a smaller one stays."""
    picture.thumbnail(size)
    return picture


def with_bar(levels: Grey, *, length_px: float, text: str) -> PIL.Image.Image:
    """A picture with an upright yellow bar at its left, and what the bar means."""
    picture = PIL.Image.fromarray(levels).convert("RGB")
    pen = ImageDraw.Draw(picture)
    middle = levels.shape[0] / 2
    ends = [(_BAR_X_PX, middle - length_px / 2), (_BAR_X_PX, middle + length_px / 2)]
    pen.line(ends, fill="yellow", width=_BAR_WIDTH_PX)
    pen.text(
        (_TEXT_X_PX, middle),
        text,
        anchor="lm",
        font=ImageFont.load_default(size=_TEXT_PX),
        fill="yellow",
    )
    return picture


def encoded(picture: PIL.Image.Image, suffix: str) -> bytes:
    """The bytes of a picture file of that suffix, which say that it is ours."""
    content = io.BytesIO()
    if suffix.lower() == ".png":
        picture.save(content, "png")
        return marked_png(content.getvalue(), KIND)
    picture.save(content, "jpeg", comment=mark_of(KIND))
    return content.getvalue()


def write_picture(path: Path, content: bytes, *, inputs: Iterable[Path]) -> None:
    """Put a picture of ours at a path; only another picture of ours is replaced.

    Raises
    ------
    OutputRefused
        Another file or an input stands there, or its name is none of a picture.
    StorageError
        It could not be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OutputRefused(
            f"{KIND}: {path.name[-80:]!r} was to be written, a name that ends in "
            f"{', '.join(SUFFIXES)} was expected; name it so"
        )
    check_file(path, KIND, inputs=map(str, inputs))
    # Not through a link: what it leads to is another's.
    write_bytes(path, content)


def animation(frames: Sequence[NDArray[np.uint8]]) -> bytes:
    """An animated PNG of frames `(h, w)` or `(h, w, 3)`, all of one size."""
    import imagecodecs

    # Noise hardly shrinks: the fastest level makes files only some percent larger.
    codec = imagecodecs.APNG
    content = imagecodecs.apng_encode(
        np.stack(frames),
        level=codec.COMPRESSION.SPEED,
        strategy=codec.STRATEGY.RLE,
        filter=codec.FILTER.SUB,
    )
    return marked_png(bytes(content), KIND)
