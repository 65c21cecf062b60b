"""A picture made small enough to be kept thousands of times."""

import math

import cv2
import numpy as np

# As wide as the column in which Dagster's page shows it.
_WIDTH_PX = 360
# Drawings keep their lines; a tissue of 1.4 times the width at this quality has as many
# bytes as at quality 50, and shows more.
_QUALITY = 20
_SHRINK = 0.9
_LEAST_PX = 16


def thumbnail(image: bytes, *, limit_bytes: int) -> bytes:
    """The same picture as WebP, at most 360 px wide and `limit_bytes` large.

    Parameters
    ----------
    image
        A PNG or JPEG file.
    limit_bytes
        What has more detail than fits becomes smaller, but never below 16 px.

    Raises
    ------
    ValueError
        It is no picture.
    """
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"thumbnail: {len(image)} bytes are no picture")
    height, width = pixels.shape[:2]
    wide = min(width, _WIDTH_PX)
    while True:
        size = (wide, max(1, round(height * wide / width)))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        _, encoded = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
        if encoded.size <= limit_bytes or wide <= _LEAST_PX:
            return encoded.tobytes()
        # Bytes grow less than the area does: this seldom shrinks too much.
        fitting = math.sqrt(limit_bytes / encoded.size)
        wide = max(_LEAST_PX, int(wide * min(_SHRINK, fitting)))
