"""Grey levels for the eye: the range that matters, stretched to 0..255."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.errors import DataError
from em_platform.imaging.correct import FlatField
from em_platform.imaging.valid import Image, valid_region
from em_platform.model import Box

_SAMPLE_PX = 512  # at most so many pixels along each side of a sample are looked at


def grey_range(
    samples: Iterable[Image],
    percentiles: tuple[float, float] = (0.1, 99.9),
    *,
    flat_field: FlatField | None = None,
) -> tuple[float, float]:
    """Two percentiles of the grey levels of all samples together.

    Parameters
    ----------
    samples
        `(h, w)` raw frames; their black frames do not count.
    percentiles
        0..100, the lower one first.
    flat_field
        Applied to the sampled pixels first.

    Returns
    -------
    tuple
        `(low, high)`, at least one grey level apart.

    Raises
    ------
    DataError
        No sample shows anything.
    """
    levels = [
        sampled_levels(sample, valid_region(sample), flat_field) for sample in samples
    ]
    return percentile_range(levels, percentiles)


def percentile_range(
    levels: Sequence[NDArray[np.float32]], percentiles: tuple[float, float]
) -> tuple[float, float]:
    """As `grey_range`, of levels that were sampled already."""
    if not any(level.size for level in levels):
        raise DataError(
            f"grey range: all {len(levels)} sampled tiles are black or one constant "
            "grey, specimen expected; check shutter and beam, or set "
            "stitching.tile.grey_range"
        )
    # Percentiles: one hot or dead pixel must not decide the range.
    low, high = np.percentile(np.concatenate(levels), percentiles)
    # A narrower range would stretch noise to black and white.
    return float(low), max(float(high), float(low) + 1.0)


def sampled_levels(
    sample: Image, box: Box, flat_field: FlatField | None = None
) -> NDArray[np.float32]:
    """`(n,)` grey levels of a grid of pixels of `box`, flat-fielded."""
    step = max(1, max(sample.shape) // _SAMPLE_PX)
    part = (slice(box.y0, box.y1, step), slice(box.x0, box.x1, step))
    grey = sample[part].astype(np.float32)
    if flat_field is not None:
        if flat_field.dark is not None:
            grey -= flat_field.dark[part]
        grey *= flat_field.gain[part]
    return grey.ravel()


def stretch(image: Image, low: float, high: float) -> NDArray[np.uint8]:
    """Grey levels `low`..`high` as 0..255, what lies outside clipped.

    Parameters
    ----------
    image
        `(h, w)` of any numeric type.
    """
    scale = 255.0 / max(high - low, 1e-6)  # an empty range is no division by 0
    grey = (image.astype(np.float32) - np.float32(low)) * np.float32(scale)
    return np.asarray(np.clip(np.rint(grey), 0, 255), dtype=np.uint8)


def clahe(
    image: NDArray[np.uint8], *, clip_limit: float = 2.0, grid: int = 16
) -> NDArray[np.uint8]:
    """Local contrast for display (Zuiderveld 1994); never before matching.

    Parameters
    ----------
    image
        `(h, w)` uint8.
    clip_limit
        Bound of the contrast; 2 and a grid of 16 are what microscopists are used to.
    grid
        Tiles along each side, each with its own histogram.
    """
    equalise = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(grid, grid))
    return np.asarray(equalise.apply(image), dtype=np.uint8)
