"""Half the resolution: what one level of a pyramid is to the one below."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.integer[Any]]


def halve(image: Image) -> Image:
    """Means of 2 x 2 pixels, rounded half up; an odd last line has its own means.

    Parameters
    ----------
    image
        `(h, w)` uint8 or uint16.

    Returns
    -------
    ndarray
        `((h + 1) // 2, (w + 1) // 2)`, same type.
    """
    h, w = image.shape
    if h % 2 == 0 and w % 2 == 0:
        return _halve_even(image)
    half = np.empty(((h + 1) // 2, (w + 1) // 2), image.dtype)
    if h > 1 and w > 1:
        half[: h // 2, : w // 2] = _halve_even(image[: h // 2 * 2, : w // 2 * 2])
    if h % 2:  # the last line twice: its mean with itself
        half[-1:] = halve(_even(np.repeat(image[-1:], 2, axis=0)))
    if w % 2:
        half[:, -1:] = halve(_even(np.repeat(image[:, -1:], 2, axis=1)))
    return half


def _even(strip: Image) -> Image:
    pad = [(0, strip.shape[0] % 2), (0, strip.shape[1] % 2)]
    return np.pad(strip, pad, mode="edge")


def _halve_even(image: Image) -> Image:
    h, w = image.shape
    size = (w // 2, h // 2)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
