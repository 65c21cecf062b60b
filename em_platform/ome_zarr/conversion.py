"""An image as OME-Zarr, and one level of an OME-Zarr as TIFF or PNG."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.config import OutputSettings
from em_platform.errors import ConfigError, FormatError
from em_platform.formats.ome_zarr import describe, open_level, read_pixels
from em_platform.formats.open import left_out, open_volume
from em_platform.formats.source import local_path
from em_platform.imaging.resample import Pooling
from em_platform.model.volume import WrittenVolume
from em_platform.ome_zarr.volume_writer import write_volume
from em_platform.storage import atomic
from em_platform.storage.guard import check_file, mark_of, marked_png, write_file
from em_platform.storage.layout import StorageOptions
from em_platform.storage.manifest import Product

log = logging.getLogger(__name__)

PICTURE = "export"
"""What the mark of an exported file calls it."""

# Of an edge that is given: finer than any atom, longer than any specimen.
_VOXEL_NM = 1e-6, 1e9
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
        _check_voxel(voxel_nm)
        info = volume.info.model_copy(update={"voxel_size_nm": voxel_nm})
        volume = replace(volume, info=info)
    if others := left_out(volume.info):
        log.warning("%s: left out %s", source, others)
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


def _check_voxel(voxel_nm: tuple[float, float, float]) -> None:
    low, high = _VOXEL_NM
    if not all(low <= edge <= high for edge in voxel_nm):
        raise ConfigError(
            f"convert: a voxel of {' x '.join(f'{e:g}' for e in voxel_nm)} nm (z, y, "
            f"x) was given, edges from {low:g} to {high:g} nm were expected; correct it"
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
        tiles = _tiles(image, array)
        _write_tiff(target.resolve(), array, tiles, described.axes, stated)
    return tuple(array.shape)


def _write_tiff(
    path: Path,
    array: Any,
    tiles: Iterator[NDArray[Any]],
    axes: tuple[str, ...],
    sizes_nm: dict[str, float],
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
            tiles,
            # tifffile cannot know them of tiles that come one by one.
            shape=array.shape,
            dtype=array.dtype,
            tile=(_TILE_PX, _TILE_PX),
            photometric="minisblack",
            # In front of the tiles' places, so that our own files are known by it.
            software=mark_of(PICTURE).decode(),
            metadata=metadata,
        )


def _tiles(image: str, array: Any) -> Iterator[NDArray[Any]]:
    """All tiles in a TIFF's order; those at the edges are filled up with zeros."""
    height, width = array.shape[-2:]
    for plane in np.ndindex(array.shape[:-2]):
        for top in range(0, height, _TILE_PX):
            where = (*plane, slice(top, top + _TILE_PX))
            band = read_pixels(image, array, where)
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
    pixels = np.ascontiguousarray(read_pixels(image, array).reshape(array.shape[-2:]))
    return marked_png(bytes(imagecodecs.png_encode(pixels)), PICTURE)
