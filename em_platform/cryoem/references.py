"""Gain, dark and defects of a camera, as its files give them.

Turns and flips of the gain are those of MotionCor2 and RELION: first rotated by 90
degrees (as a picture with its first row at the top: clockwise), then flipped. EER's
`.gain` divides, all others multiply; a gain of 0 is a pixel that does not work.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.cryoem.methods.motion_frames import Corrections
from em_platform.cryoem.movies import open_movie
from em_platform.errors import FormatError
from em_platform.model.sentences import size_of


def load_corrections(
    shape: tuple[int, int],
    *,
    gain: Path | None,
    rotated: int,
    flipped: int,
    dark: Path | None,
    defects: Path | None,
) -> Corrections:
    """What is done to each frame of a shape.

    Raises
    ------
    FormatError
        A reference cannot be read, or is not as large as the frames.
    """
    multiplied = None
    broken = np.zeros(shape, bool)
    if gain is not None:
        multiplied = _oriented(_reference(gain), rotated, flipped)
        # Frames that were divided into finer pixels have a gain for each old pixel.
        finer = shape[0] // multiplied.shape[0]
        if finer in (2, 4) and multiplied.shape[1] * finer == shape[1]:
            multiplied = multiplied.repeat(finer, 0).repeat(finer, 1)
        _check_shape(gain, multiplied, shape, what="gain")
        broken |= ~(np.isfinite(multiplied) & (multiplied > 0))
        if gain.suffix.lower() == ".gain":
            multiplied = _inverse(multiplied)
        multiplied[broken] = 0
    subtracted = None
    if dark is not None:
        subtracted = _reference(dark)
        _check_shape(dark, subtracted, shape, what="dark")
    if defects is not None:
        broken |= _mask(defects, shape)
    return Corrections(gain=multiplied, dark=subtracted, defects=np.flatnonzero(broken))


def _inverse(gain: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / np.where(gain > 0, gain, 1), np.float32)


def _reference(path: Path) -> NDArray[np.float32]:
    stack = open_movie(path)
    images = [np.asarray(stack.frame(z), np.float32) for z in range(stack.shape[0])]
    image = np.asarray(np.mean(images, axis=0), np.float32)
    # EER's gain is a TIFF, but its rows are in the order of the events.
    return image[::-1] if path.suffix.lower() == ".gain" else image


def _oriented(image: NDArray[np.float32], turns: int, flip: int) -> NDArray[np.float32]:
    image = np.rot90(image, -turns)
    if flip:
        image = image[::-1] if flip == 1 else image[:, ::-1]
    return np.ascontiguousarray(image)


def _check_shape(
    path: Path, image: NDArray[Any], shape: tuple[int, int], *, what: str
) -> None:
    if image.shape != shape:
        raise FormatError(
            f"{path}: the {what} has {size_of(image.shape)}, the frames "
            f"have {size_of(shape)}; give that of this camera "
            "mode, or turn it"
        )


def _mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Rectangles of a text file, `x y width height` a line, or an image of them."""
    if path.suffix.lower() in (".mrc", ".tif", ".tiff"):
        image = _reference(path)
        _check_shape(path, image, shape, what="mask of defects")
        return np.asarray(image != 0)
    found = np.zeros(shape, bool)
    try:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if words := line.split("#")[0].split():
                x, y, w, h = (float(word) for word in words)
                inside = 0 <= x < x + w <= shape[1] and 0 <= y < y + h <= shape[0]
                if not inside or not all(n.is_integer() for n in (x, y, w, h)):
                    raise ValueError(f"line {number} is `{line.strip()[:80]}`")
                found[int(y) : int(y + h), int(x) : int(x + w)] = True
    except (OSError, ValueError) as error:
        raise FormatError(
            f"{path}: cannot be read as defects ({error}), expected lines of x, y, "
            f"width and height, whole pixels within {shape[1]} x {shape[0]} (x, y); "
            "correct it"
        ) from error
    return found
