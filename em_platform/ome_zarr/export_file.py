"""One level of an OME-Zarr, or a part of it, as TIFF, MRC or PNG."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import ConfigError, FormatError
from em_platform.formats.ome_zarr import Described, describe, open_level, read_pixels
from em_platform.model.sentences import counted, size_of
from em_platform.storage import atomic
from em_platform.storage.guard import check_file, mark_of, marked_png, write_file
from em_platform.storage.layout import StorageOptions

PICTURE = "export"
"""What the mark of an exported file calls it."""

Window = tuple[int, int, int, int]
"""Left, top, width and height in pixels, as Fiji's *Specify* has them."""

# A multiple of 16, as TIFF demands of tiles; Fiji and QuPath read such at once.
_TILE_PX = 512
# Classic TIFF counts bytes in 32 bits; its directory needs some of them.
_CLASSIC_BYTES = 2**32 - 2**25
# A PNG is made in memory, and few viewers open a larger one.
_PNG_PIXELS = 1 << 28
# Modes of MRC2014. Mode 0 has a sign: 8 bits without one need 16.
_MRC_MODES = {"uint8": 6, "uint16": 6, "int8": 1, "int16": 1, "float32": 2}
_NM_IN_CM = 1e7


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What of a level is written; `planes` of its last two axes, and a window of each.

    `sizes_nm` has the edges of a pixel by axis, of those that are known.
    """

    image: str
    array: Any
    axes: tuple[str, ...]
    planes: tuple[tuple[int, ...], ...]
    window: Window
    shape: tuple[int, ...]
    sizes_nm: dict[str, float]

    def bands(self) -> Iterator[NDArray[Any]]:
        """Rows of each plane, `_TILE_PX` at a time, from the top down."""
        left, top, width, height = self.window
        for plane in self.planes:
            for y in range(0, height, _TILE_PX):
                rows = slice(top + y, top + min(y + _TILE_PX, height))
                where = (*plane, rows, slice(left, left + width))
                yield read_pixels(self.image, self.array, where)


def export(
    image: str,
    target: Path,
    *,
    level: int = 0,
    crop: Window | None = None,
    plane: int | None = None,
    options: StorageOptions | None = None,
    overwrite: bool = False,
) -> tuple[int, ...]:
    """The shape of what now is at `target`: a level of an OME-Zarr, or a part of it.

    A `.tif` is a tiled OME-TIFF with the pixel's size and the coarser levels behind
    the fine one, a `.mrc` has the size in Å; both are written band by band, so that
    memory holds a few rows of tiles. A `.png` is one plane of 8 or 16 bits. `crop` is
    in pixels of the level, `plane` counts from 0.

    Raises
    ------
    FormatError
        No such image or level, or one that the file cannot hold.
    ConfigError
        No such part.
    OutputRefused
        What stands at the target must not be replaced.
    """
    kind = target.suffix.lower()
    if kind not in (".tif", ".tiff", ".mrc", ".png"):
        raise FormatError(
            f"export: {target} was given as the output, expected a name ending in "
            ".tif, .tiff, .mrc or .png; name one"
        )
    check_file(target, PICTURE, inputs=(image,), overwrite=overwrite)
    described = describe(image, storage_options=options)
    arrays = [
        open_level(image, number, storage_options=options)
        # At least the one that is asked for, which may not be there.
        for number in range(level, max(level + 1, len(described.paths)))
    ]
    part = _part(image, arrays[0], described, level=level, crop=crop, plane=plane)
    if kind == ".png":
        write_file(target, _png(part), PICTURE, inputs=(image,), overwrite=overwrite)
    elif kind == ".mrc":
        _write_mrc(target.resolve(), part)
    else:
        _write_tiff(target.resolve(), [part, *_coarser(part, arrays, described)])
    return part.shape


def _part(
    image: str,
    array: Any,
    described: Described,
    *,
    level: int,
    crop: Window | None,
    plane: int | None,
) -> Part:
    height, width = array.shape[-2:]
    left, top, wide, high = window = crop or (0, 0, width, height)
    inside = min(left, top) >= 0 and left + wide <= width and top + high <= height
    if not inside or min(wide, high) < 1:
        raise ConfigError(
            f"export: a window of {wide} x {high} px at {left}, {top} does not lie in "
            f"level {level} of {image}, which has {width} x {height} px; give LEFT TOP "
            "WIDTH HEIGHT within it"
        )
    planes = tuple(np.ndindex(array.shape[:-2]))
    if plane is not None:
        if not 0 <= plane < len(planes):
            raise ConfigError(
                f"export: level {level} of {image} has "
                f"{counted(len(planes), 'plane')}, counted from 0, and none of number "
                f"{plane}; give one that is there"
            )
        planes = (planes[plane],)
    above = () if plane is not None else array.shape[:-2]
    return Part(
        image=image,
        array=array,
        axes=described.axes[-2:] if plane is not None else described.axes,
        planes=planes,
        window=window,
        shape=(*above, high, wide),
        sizes_nm=_sizes_nm(described, level),
    )


def _coarser(part: Part, arrays: list[Any], described: Described) -> Iterator[Part]:
    """The same window of the levels above, while they have all planes of this one."""
    fine, first = arrays[0].shape, len(described.paths) - len(arrays)
    left, top, wide, high = part.window
    for number, array in enumerate(arrays[1:], first + 1):
        if array.shape[:-2] != fine[:-2]:
            return
        y, x = array.shape[-2] / fine[-2], array.shape[-1] / fine[-1]
        height, width = max(1, round(high * y)), max(1, round(wide * x))
        # Rounding may put a window behind the last pixel.
        corner = (
            min(round(left * x), array.shape[-1] - width),
            min(round(top * y), array.shape[-2] - height),
        )
        yield replace(
            part,
            array=array,
            window=(*corner, width, height),
            shape=(*part.shape[:-2], height, width),
            sizes_nm=_sizes_nm(described, number),
        )


def _sizes_nm(described: Described, level: int) -> dict[str, float]:
    # Without a unit, or with another one, the number is no length in nm.
    each = zip(described.axes, described.units, described.scales[level], strict=True)
    return {axis: size for axis, unit, size in each if unit == "nanometer"}


def _write_tiff(path: Path, parts: list[Part]) -> None:
    import tifffile

    first = parts[0]
    itemsize = first.array.dtype.itemsize
    nbytes = sum(int(np.prod(part.shape)) * itemsize for part in parts)
    with (
        atomic.whole_file(path) as own,
        tifffile.TiffWriter(own, bigtiff=nbytes > _CLASSIC_BYTES, ome=True) as out,
    ):
        for part in parts:
            out.write(
                _tiles(part),
                # tifffile cannot know them of tiles that come one by one.
                shape=part.shape,
                dtype=part.array.dtype,
                tile=(_TILE_PX, _TILE_PX),
                photometric="minisblack",
                # In front of the tiles' places, so that our own files are known by it.
                software=mark_of(PICTURE).decode(),
                subifds=len(parts) - 1 if part is first else None,
                subfiletype=0 if part is first else 1,
                metadata=_ome(part) if part is first else None,
                **_resolution(part),
            )


def _ome(part: Part) -> dict[str, Any]:
    axes = part.axes[-len(part.shape) :]
    metadata: dict[str, Any] = {"axes": "".join(axes).upper()}
    for axis, size in part.sizes_nm.items():
        metadata |= {
            f"PhysicalSize{axis.upper()}": size,
            f"PhysicalSize{axis.upper()}Unit": "nm",
        }
    return metadata


def _resolution(part: Part) -> dict[str, Any]:
    """Pixels in a centimetre along x and y, for readers that know no OME."""
    if not {"x", "y"} <= part.sizes_nm.keys():
        return {"resolutionunit": "NONE"}
    density = tuple(_NM_IN_CM / part.sizes_nm[axis] for axis in "xy")
    return {"resolution": density, "resolutionunit": "CENTIMETER"}


def _tiles(part: Part) -> Iterator[NDArray[Any]]:
    """All tiles in a TIFF's order; those at the edges are filled up with zeros."""
    for band in part.bands():
        for left in range(0, band.shape[1], _TILE_PX):
            inner = band[:, left : left + _TILE_PX]
            tile = np.zeros((_TILE_PX, _TILE_PX), band.dtype)
            tile[: inner.shape[0], : inner.shape[1]] = inner
            yield tile


def _write_mrc(path: Path, part: Part) -> None:
    import mrcfile

    dtype = part.array.dtype.name
    if dtype not in _MRC_MODES or len(part.shape) > 3:
        raise FormatError(
            f"export: {part.image} has {size_of(part.shape)} of "
            f"{dtype}, expected one image or volume of {', '.join(_MRC_MODES)} for an "
            "MRC; name a .tif"
        )
    mode = _MRC_MODES[dtype]
    with (
        atomic.whole_file(path) as own,
        mrcfile.new_mmap(own, part.shape, mrc_mode=mode, overwrite=True) as file,
    ):
        seen, row = _Moments(), 0
        rows = file.data.reshape(-1, part.shape[-1])
        for band in part.bands():
            rows[row : row + len(band)] = band
            row += len(band)
            seen.add(band)
        if len(part.shape) == 3:
            file.set_volume()
        sizes = [part.sizes_nm.get(axis, 0.0) * 10 for axis in "xyz"]
        # Of one plane z is the thickness of nothing: programs expect the pixel's.
        file.voxel_size = (*sizes[:2], sizes[2] or sizes[0])
        seen.into(file.header)
        # mrcfile's own label has the time: the same image must give the same bytes.
        file.header.label[:] = b""
        file.header.label[0] = mark_of(PICTURE)
        file.header.nlabl = 1


@dataclass(slots=True)
class _Moments:
    """What an MRC's header says of its grey levels, gathered band by band."""

    least: float = np.inf
    largest: float = -np.inf
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, band: NDArray[Any]) -> None:
        grey = band.astype(np.float64)
        self.least = min(self.least, float(grey.min()))
        self.largest = max(self.largest, float(grey.max()))
        self.count += grey.size
        self.total += float(grey.sum())
        self.squares += float(np.square(grey).sum())

    def into(self, header: Any) -> None:
        mean = self.total / self.count
        header.dmin, header.dmax, header.dmean = self.least, self.largest, mean
        header.rms = np.sqrt(max(0.0, self.squares / self.count - mean**2))


def _png(part: Part) -> bytes:
    import imagecodecs

    dtype, pixels = part.array.dtype.name, int(np.prod(part.shape))
    fits = pixels <= _PNG_PIXELS and dtype in ("uint8", "uint16")
    if len(part.planes) > 1 or not fits:
        raise FormatError(
            f"export: {part.image} has {size_of(part.shape)} of "
            f"{dtype}, expected one plane of uint8 or uint16 with at most "
            f"{_PNG_PIXELS} pixels for a PNG; name a .tif, choose a smaller level, or "
            "a part by --plane and --crop"
        )
    plane = np.concatenate(list(part.bands()))
    return marked_png(bytes(imagecodecs.png_encode(plane)), PICTURE)
