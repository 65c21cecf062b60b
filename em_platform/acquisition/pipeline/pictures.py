"""Small pictures of a tile, as the messages carry them."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.config.acquisition import PipelineSettings
from em_platform.imaging.contrast import clahe

_QUALITY = 85


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
    if settings.clahe and min(half.shape) >= 16:
        half = clahe(half)
    preview = _shrunk(
        half,
        max(settings.preview_scale * longer_px, settings.preview_min_px),
    )
    mini = _shrunk(preview, max(settings.mini_scale * longer_px, settings.mini_min_px))
    return _jpeg(preview), _jpeg(mini)


def _shrunk(image: NDArray[np.uint8], longer_px: float) -> NDArray[np.uint8]:
    """At most so long; never enlarged."""
    scale = longer_px / max(image.shape)
    if scale >= 1.0:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _jpeg(image: NDArray[np.uint8]) -> str:
    _, content = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    return base64.b64encode(content.tobytes()).decode("ascii")
