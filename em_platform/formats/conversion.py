"""An image as OME-Zarr, and an OME-Zarr as TIFF, PNG or its three middle sections."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zarr
from numpy.typing import NDArray

from em_platform.config import OutputSettings
from em_platform.errors import FormatError
from em_platform.formats.ome_zarr import Described, describe, open_level
from em_platform.formats.open import open_volume
from em_platform.formats.source import local_path
from em_platform.formats.volume_writer import write_volume
from em_platform.imaging.contrast import stretch
from em_platform.imaging.resample import Pooling
from em_platform.model.volume import WrittenVolume
from em_platform.storage import atomic
from em_platform.storage.guard import check_file, mark_of, marked_png, write_file
from em_platform.storage.layout import StorageOptions, errors_of
from em_platform.storage.manifest import Product

PICTURE = "export"
"""What the mark of an exported file calls it."""

# A multiple of 16, as TIFF demands of tiles; Fiji and QuPath read such at once.
_TILE_PX = 512
# Classic TIFF counts bytes in 32 bits; its directory needs some of them.
_CLASSIC_BYTES = 2**32 - 2**25
# A PNG is made in memory, and few viewers open a larger one.
_PNG_PIXELS = 1 << 28


def convert(
    source: str,
    target: str,
    *,
    settings: OutputSettings,
    voxel_nm: tuple[float, float, float] | None = None,
    pooling: Pooling = "mean",
    options: StorageOptions | None = None,
    overwrite: bool = False,
) -> WrittenVolume:
    """The OME-Zarr at `target` with the voxels of `source`, any that can be opened.

    Parameters
    ----------
    voxel_nm
        Edges of a voxel along z, y, x, where the file states none or a wrong one.
    options
        Of the source's store, as for `open_volume`.

    Raises
    ------
    FormatError
        The source cannot be read, or the target is no name of an OME-Zarr.
    OutputRefused
        What stands at the target must not be replaced.
    """
    if not target.rstrip("/").endswith(".zarr"):
        raise FormatError(
            f"convert: {target} was given as the output, expected a path or URL ending "
            "in .zarr; name one"
        )
    volume: Any = open_volume(source, options)
    if voxel_nm is not None:
        info = volume.info.model_copy(update={"voxel_size_nm": voxel_nm})
        volume = replace(volume, info=info)
    local = local_path(source)
    name = Path(local).resolve().name if local else source.rstrip("/").rsplit("/")[-1]
    # A file that was changed may have the same shape: it is not resumed from.
    changed_ns = Path(local).stat().st_mtime_ns if local else 0
    made_from = f"{volume.info.model_dump_json()} {changed_ns} {pooling}"
    return write_volume(
        target,
        volume,
        settings=settings,
        name=name,
        product=Product(
            kind="volume", of=str(Path(local).resolve()) if local else source
        ),
        fingerprint=hashlib.sha256(made_from.encode()).hexdigest(),
        pooling=pooling,
        inputs=(source,),
        overwrite=overwrite,
    )


def export(
    image: str,
    target: Path,
    *,
    level: int = 0,
    options: StorageOptions | None = None,
    overwrite: bool = False,
) -> tuple[int, ...]:
    """The shape of what now is at `target`: one level of an OME-Zarr, TIFF or PNG.

    A `.tif` is a tiled OME-TIFF with the pixel's size, written band by band, so that
    memory holds a few rows of tiles; a `.png` is one plane of 8 or 16 bits.

    Raises
    ------
    FormatError
        No such image or level, or one that a PNG cannot hold.
    OutputRefused
        What stands at the target must not be replaced.
    """
    kind = target.suffix.lower()
    if kind not in (".tif", ".tiff", ".png"):
        raise FormatError(
            f"export: {target} was given as the output, expected a name ending in "
            ".tif, .tiff or .png; name one"
        )
    check_file(target, PICTURE, inputs=(image,), overwrite=overwrite)
    described = describe(image, storage_options=options)
    array: Any = open_level(image, level, storage_options=options)
    if kind == ".png":
        content = _png(image, array)
        write_file(target, content, PICTURE, inputs=(image,), overwrite=overwrite)
    else:
        sizes = dict(zip(described.axes, described.scales[level], strict=True))
        units = dict(zip(described.axes, described.units, strict=True))
        # Without a unit, or with another one, the number is no length in nm.
        stated = {
            axis: sizes[axis] for axis in described.axes if units[axis] == "nanometer"
        }
        _write_tiff(target.resolve(), array, described.axes, stated)
    return tuple(array.shape)


def _write_tiff(
    path: Path, array: Any, axes: tuple[str, ...], sizes_nm: dict[str, float]
) -> None:
    import tifffile

    metadata: dict[str, Any] = {"axes": "".join(axes).upper()}
    for axis, size in sizes_nm.items():
        metadata |= {
            f"PhysicalSize{axis.upper()}": size,
            f"PhysicalSize{axis.upper()}Unit": "nm",
        }
    with (
        atomic.whole_file(path) as own,
        tifffile.TiffWriter(
            own, bigtiff=array.nbytes > _CLASSIC_BYTES, ome=True
        ) as out,
    ):
        out.write(
            _tiles(array),
            # tifffile cannot know them of tiles that come one by one.
            shape=array.shape,
            dtype=array.dtype,
            tile=(_TILE_PX, _TILE_PX),
            photometric="minisblack",
            # In front of the tiles' places, so that our own files are known by it.
            software=mark_of(PICTURE).decode(),
            metadata=metadata,
        )


def _tiles(array: Any) -> Iterator[NDArray[Any]]:
    """All tiles in a TIFF's order; those at the edges are filled up with zeros."""
    height, width = array.shape[-2:]
    for plane in np.ndindex(array.shape[:-2]):
        for top in range(0, height, _TILE_PX):
            band = np.asarray(array[(*plane, slice(top, top + _TILE_PX))])
            for left in range(0, width, _TILE_PX):
                part = band[:, left : left + _TILE_PX]
                tile = np.zeros((_TILE_PX, _TILE_PX), array.dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile


def _png(image: str, array: Any) -> bytes:
    import imagecodecs

    plane = array.ndim == 2 or array.shape[0] == 1
    fits = int(np.prod(array.shape)) <= _PNG_PIXELS
    if not plane or not fits or array.dtype.name not in ("uint8", "uint16"):
        raise FormatError(
            f"export: {image} has {' x '.join(map(str, array.shape))} pixels of "
            f"{array.dtype.name}, expected one plane of uint8 or uint16 with at most "
            f"{_PNG_PIXELS} pixels for a PNG; name a .tif, or choose a smaller level"
        )
    pixels = np.ascontiguousarray(np.asarray(array[...]).reshape(array.shape[-2:]))
    return marked_png(bytes(imagecodecs.png_encode(pixels)), PICTURE)


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
    # Of damaged shards zarr and zarrs raise these.
    refusals: tuple[type[Exception], ...] = (*errors_of(url), ValueError, RuntimeError)
    try:
        return np.asarray(array[tuple(where)])
    except refusals as error:
        raise FormatError(
            f"volume: the middle of {url} could not be read ({error}), expected whole "
            "shards; write it again",
            url=url,
        ) from error


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
