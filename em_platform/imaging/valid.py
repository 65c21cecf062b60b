"""Where a tile shows specimen: the black frame around it is cut off.

Cameras that are read with a margin, and tiles that were rotated or undistorted before
they were saved, have a frame of constant black. It is the same in every tile, so that
it would pin all matches to a shift of zero.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.model import Box

Image = NDArray[np.integer[Any] | np.floating[Any]]
Mask = NDArray[np.bool_]

_BLACK = 0.04  # share of the way from the darkest edge pixel to bright tissue
_FRAME = 1 / 3  # of an outermost line is black where there is a frame
_STRAY = 0.002  # share of a line that may be black beside the specimen
_USUAL = 0.8  # of the usual area: a smaller region is not that of the camera
_SOFT_PX = 2  # the frame's edge is blurred where a tile was resampled
_EMPTY = Box(y0=0, x0=0, y1=0, x1=0)


def finite(image: Image) -> Image:
    """The image with its darkest number where a pixel is none (NaN, infinite)."""
    if image.dtype.kind != "f" or np.isfinite(image).all():
        return image
    known = image[np.isfinite(image)]
    darkest = known.min() if known.size else image.dtype.type(0)
    return np.where(np.isfinite(image), image, darkest)


def valid_region(image: Image | Sequence[Image]) -> Box:
    """The largest upright rectangle without the black frame.

    Dark tissue at the edge stays: a frame is black along at least a third of one
    outermost line, without grain. A frame that is slightly rotated is cut where it
    ends. Without a frame only a sample of the pixels is read.

    Parameters
    ----------
    image
        `(h, w)`; or several tiles of one montage, which may come from several cameras:
        then no tile shows its frame inside. Tiles without content do not count, nor do
        those of which much less is left than of the others (an opaque grid bar).

    Returns
    -------
    Box
        The whole image where there is no frame; empty (zero high and wide) where there
        is nothing but black or one constant grey level.
    """
    if isinstance(image, np.ndarray):
        return _region(image)
    boxes = [box for box in map(_region, image) if box != _EMPTY]
    if not boxes:
        return _EMPTY
    areas = [(box.y1 - box.y0) * (box.x1 - box.x0) for box in boxes]
    usual = _USUAL * float(np.median(areas))
    boxes = [box for box, area in zip(boxes, areas, strict=True) if area >= usual]
    y0, x0 = max(box.y0 for box in boxes), max(box.x0 for box in boxes)
    y1, x1 = min(box.y1 for box in boxes), min(box.x1 for box in boxes)
    return Box(y0=y0, x0=x0, y1=y1, x1=x1) if y1 > y0 and x1 > x0 else _EMPTY


def _region(image: Image) -> Box:
    limit = _black_limit(image)
    if limit is None:
        return _EMPTY
    if not _has_frame(image, limit):
        return Box(y0=0, x0=0, y1=image.shape[0], x1=image.shape[1])
    return _inner_box(image <= limit)


def _black_limit(image: Image) -> Any | None:
    """The grey level up to which a pixel is black; None where nothing is brighter."""
    if image.size == 0:
        return None
    step = max(1, min(image.shape) // 256)
    sample = image[::step, ::step]
    # A camera's black is not always 0; the frame's own level counts.
    low = float(min(line.min() for line in _outline(image)))
    # The 75th percentile is tissue even where half of the tile is black.
    limit = image.dtype.type(low + _BLACK * (float(np.percentile(sample, 75)) - low))
    return limit if np.mean(sample <= limit) < 1.0 - _STRAY else None


def _outline(image: Image) -> tuple[Image, ...]:
    return image[0], image[-1], image[:, 0], image[:, -1]


def _has_frame(image: Image, limit: Any) -> bool:
    return max(float(np.mean(line <= limit)) for line in _outline(image)) >= _FRAME


def _inner_box(black: Mask) -> Box:
    """Without the lines that are all black, the slanted rest, and the soft edge."""
    h, w = black.shape
    rows = np.flatnonzero(~black.all(axis=1))
    columns = np.flatnonzero(~black.all(axis=0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    box = _upright_box(black[y0:y1, x0:x1])
    y0, y1, x0, x1 = y0 + box.y0, y0 + box.y1, x0 + box.x0, x0 + box.x1
    soft = _SOFT_PX
    y0, y1 = y0 + soft * (y0 > 0), y1 - soft * (y1 < h)
    x0, x1 = x0 + soft * (x0 > 0), x1 - soft * (x1 < w)
    return Box(y0=y0, x0=x0, y1=y1, x1=x1) if y1 > y0 and x1 > x0 else _EMPTY


def _upright_box(black: Mask) -> Box:
    """Cut the side whose outermost line is most frame, until none has any."""
    h, w = black.shape
    top, bottom = _runs(black), _runs(black[::-1])
    left, right = _runs(black.T), _runs(black.T[::-1])
    y0, x0, y1, x1 = 0, 0, h, w
    while y1 > y0 and x1 > x0:
        shares = (
            np.mean(top[x0:x1] > y0),
            np.mean(bottom[x0:x1] > h - y1),
            np.mean(left[y0:y1] > x0),
            np.mean(right[y0:y1] > w - x1),
        )
        worst = int(np.argmax(shares))
        if shares[worst] <= _STRAY:
            break
        y0, y1 = y0 + (worst == 0), y1 - (worst == 1)
        x0, x1 = x0 + (worst == 2), x1 - (worst == 3)
    return Box(y0=y0, x0=x0, y1=y1, x1=x1)


def _runs(black: Mask) -> NDArray[np.intp]:
    """How many pixels from the top of each column are black without a gap."""
    # Only as deep as the frame: the rest of the tile is not searched.
    depth = 64
    while depth < len(black) and black[:depth].all(axis=0).any():
        depth *= 2
    band = black[:depth]
    return np.where(band.all(axis=0), len(band), band.argmin(axis=0))
