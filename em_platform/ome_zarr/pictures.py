"""Small pictures of an OME-Zarr image: all of it, or its three middle sections."""

import itertools
from typing import Any

import cv2
import numpy as np
import zarr
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.header_values import check_image
from em_platform.formats.ome_zarr import (
    Described,
    describe,
    level_count,
    open_level,
    read_pixels,
)
from em_platform.imaging.contrast import stretch
from em_platform.storage.layout import StorageOptions

_PERCENTILES = (0.5, 99.5)  # single extreme voxels must not set the contrast
_BIG_ENOUGH = 0.75  # of the pixels that are shown; more cost bytes and are not seen
_GAP_PX = 6
_OF_LABELS = ("mode", "nearest")
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, of the golden ratio: Knuth 1973, 6.4

Picture = NDArray[np.uint8]


def mid_sections(
    url: str, *, max_px: int = 256, storage_options: StorageOptions | None = None
) -> bytes:
    """The middle sections xy, xz and yz side by side, in true proportions.

    Read from the smallest level that is big enough. Grey levels are stretched between
    two percentiles; labels get a colour each. A volume of one section has one picture.

    Parameters
    ----------
    max_px
        The longest edge of the volume in the picture; a volume that is smaller stays
        as it is.

    Returns
    -------
    bytes
        PNG.

    Raises
    ------
    FormatError
        There is no volume, or it cannot be read.
    """
    image = describe(url, storage_options=storage_options)
    shape = open_level(url, 0, storage_options=storage_options).shape
    if len(shape) != 3:
        raise FormatError(
            f"volume: {url} has {len(shape)} axes, expected z, y, x; "
            "ask for a preview of an image instead",
            url=url,
        )
    sizes = _sizes_px(shape, image, max_px=max_px)
    array = _big_enough(url, image, sizes, options=storage_options)
    with_depth = (0, 1, 2) if shape[0] > 1 else (0,)
    sections = [_middle(url, array, axis) for axis in with_depth]
    paint = _coloured if image.kind in _OF_LABELS else _stretched
    pictures = [
        _resized(picture, sizes[:axis] + sizes[axis + 1 :])
        for axis, picture in zip(with_depth, paint(sections), strict=True)
    ]
    if len(pictures) == 3:
        pictures[2] = np.swapaxes(pictures[2], 0, 1)  # y down, as in xy beside it
    _, png = cv2.imencode(".png", _side_by_side(pictures))
    return png.tobytes()


def _sizes_px(shape: tuple[int, ...], image: Described, *, max_px: int) -> list[int]:
    edges = image.scales[0]
    known = [edge for edge, unit in zip(edges, image.units, strict=True) if unit]
    finest = min(known or edges)
    lengths = [
        n * (edge if unit else finest)
        for n, edge, unit in zip(shape, edges, image.units, strict=True)
    ]
    per_nm = min(max_px / max(lengths), 1 / finest)
    return [max(1, round(length * per_nm)) for length in lengths]


def _big_enough(
    url: str,
    image: Described,
    sizes: list[int],
    *,
    options: StorageOptions | None,
) -> zarr.Array[Any]:
    chosen = whole = open_level(url, 0, storage_options=options)
    for level in range(1, len(image.scales)):
        smaller = open_level(url, level, storage_options=options)
        wanted = (min(px, n) for px, n in zip(sizes, whole.shape, strict=True))
        if any(
            n < _BIG_ENOUGH * px for n, px in zip(smaller.shape, wanted, strict=True)
        ):
            break
        chosen = smaller
    return chosen


def _middle(url: str, array: zarr.Array[Any], axis: int) -> NDArray[Any]:
    where: list[Any] = [slice(None)] * 3
    where[axis] = array.shape[axis] // 2
    return read_pixels(url, array, tuple(where))


def _stretched(sections: list[NDArray[Any]]) -> list[Picture]:
    grey = np.concatenate([section.ravel() for section in sections]).astype(np.float64)
    grey = grey[np.isfinite(grey)]
    low, high = np.percentile(grey, _PERCENTILES) if grey.size else (0.0, 1.0)
    return [
        stretch(np.nan_to_num(section, nan=low, posinf=high, neginf=low), low, high)
        for section in sections
    ]


def _coloured(sections: list[NDArray[Any]]) -> list[Picture]:
    """A colour for each label, the same everywhere; 0 is black."""
    pictures = []
    for section in sections:
        # The high bits of the product are the well mixed ones; no channel is below
        # 64, so that a label is never as dark as the background.
        mixed = section.astype(np.uint64) * _SPREAD
        channels = [(mixed >> np.uint64(shift)) | np.uint64(64) for shift in (40, 48)]
        channels.append((mixed >> np.uint64(56)) | np.uint64(64))
        colours = np.stack(channels, axis=-1).astype(np.uint8)
        pictures.append(np.where(section[..., None] == 0, np.uint8(0), colours))
    return pictures


def _resized(picture: Picture, size: list[int]) -> Picture:
    height, width = size
    if picture.ndim == 3:
        # Between the colours of two labels is the colour of a third.
        how = cv2.INTER_NEAREST
    elif height <= picture.shape[0] and width <= picture.shape[1]:
        # The one that averages; enlarging, it would show blocks.
        how = cv2.INTER_AREA
    else:
        how = cv2.INTER_LINEAR
    resized = cv2.resize(picture, (width, height), interpolation=how)
    return np.asarray(resized, np.uint8)


def _side_by_side(pictures: list[Picture]) -> Picture:
    height = max(picture.shape[0] for picture in pictures)
    white = (height, _GAP_PX, *pictures[0].shape[2:])
    columns = [
        np.pad(
            picture,
            [(0, height - picture.shape[0]), (0, 0), (0, 0)][: picture.ndim],
            constant_values=255,
        )
        for picture in pictures
    ]
    gaps = itertools.repeat(np.full(white, 255, np.uint8), len(columns))
    parts = [part for pair in zip(columns, gaps, strict=True) for part in pair][:-1]
    return np.concatenate(parts, axis=1)


def preview(
    url: str, max_px: int, *, storage_options: StorageOptions | None = None
) -> NDArray[np.uint8]:
    """The whole image, small; of a volume its middle section.

    Parameters
    ----------
    max_px
        The longer side of the result; an image that is smaller stays as it is.

    Returns
    -------
    NDArray[np.uint8]
        `(h, w)`; grey levels of more than 8 bits are mapped from darkest to brightest.
    """
    chosen = open_level(url, 0, storage_options=storage_options)
    for level in range(1, level_count(url, storage_options=storage_options)):
        smaller = open_level(url, level, storage_options=storage_options)
        if max(smaller.shape[-2:]) < max_px:
            break
        chosen = smaller
    middle = tuple(length // 2 for length in chosen.shape[:-2])
    plane: tuple[Any, ...] = (*middle, ...)
    height, width = chosen.shape[-2:]
    check_image(url, (height, width), pixel_bytes=1, file_bytes=1 << 40)
    pixels = read_pixels(url, chosen, plane)
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels)
    # OpenCV resizes few types, these and float32 among them.
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = pixels.astype(np.float32)
    factor = max_px / max(pixels.shape)
    if factor < 1:
        height, width = (max(1, round(length * factor)) for length in pixels.shape)
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = (pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    return pixels.astype(np.uint8)
