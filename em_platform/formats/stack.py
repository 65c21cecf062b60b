"""Many files of one plane each as one volume, in the order in which they are given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.raster import RasterVolume
from em_platform.formats.tiff_decode import CodedVolume
from em_platform.formats.volume import PlainVolume, Region, Volume, bounds_of, shape_of
from em_platform.model.volume import Tag, VolumeInfo

# Less is rounding in the headers, a change of magnification is more.
_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class StackVolume:
    """Planes that lie in a file each; a region opens only those of its z range."""

    info: VolumeInfo
    planes: tuple[Volume, ...]

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`, in native byte order."""
        bounds = bounds_of(region, self.info.shape)
        found = np.empty(shape_of(bounds), np.dtype(self.info.dtype))
        if found.size:
            inside = (slice(0, 1), slice(*bounds[1]), slice(*bounds[2]))
            for z in range(*bounds[0]):
                found[z - bounds[0][0]] = self.planes[z].read(inside)[0]
        return found


def stack_of(planes: Sequence[Volume], *, z_nm: float | None = None) -> StackVolume:
    """Volumes of one plane each as one volume, in their order."""
    first = planes[0].info
    for plane in planes:
        _check(plane.info, first)
    voxel = first.voxel_size_nm
    if voxel is not None and z_nm is not None:
        voxel = (z_nm, voxel[1], voxel[2])
    sizes = [plane.info.size_bytes for plane in planes]
    tags: dict[str, Tag] = first.tags | {"files": len(planes)}
    if odd := sum(_differs(plane.info, first) for plane in planes):
        tags["files_of_other_pixel_size"] = odd
    info = first.model_copy(
        update={
            "uri": str(Path(first.uri).parent) if len(planes) > 1 else first.uri,
            "format": f"{first.format} stack",
            "shape": (len(planes), first.shape[1], first.shape[2]),
            "voxel_size_nm": voxel,
            "size_bytes": sum(size for size in sizes if size is not None),
            "tags": tags,
        }
    )
    return StackVolume(info=info, planes=tuple(_light(p, first) for p in planes))


def _light(plane: Volume, shared: VolumeInfo) -> Volume:
    """The plane without what the others have as well: thousands go to each worker."""
    if not isinstance(plane, PlainVolume | CodedVolume | RasterVolume):
        return plane
    source = replace(plane.source, first=b"")
    return replace(plane, info=shared, source=source)


def _differs(found: VolumeInfo, first: VolumeInfo) -> bool:
    """Whether pixels are of another length, as after a change of magnification."""
    lengths = zip(found.voxel_size_nm or (), first.voxel_size_nm or (), strict=False)
    pairs = list(lengths)[1:]
    stated = (found.voxel_size_nm is None) == (first.voxel_size_nm is None)
    return not stated or any(abs(a - b) > _TOLERANCE * b for a, b in pairs)


def _check(found: VolumeInfo, first: VolumeInfo) -> None:
    if found.shape[0] != 1:
        raise FormatError(
            f"{found.uri}: found {found.shape[0]} planes, expected one plane a file of "
            "this stack; open the file by itself",
            uri=found.uri,
        )
    if (found.shape, found.dtype) != (first.shape, first.dtype):
        raise FormatError(
            f"{found.uri}: found {found.shape[1]} x {found.shape[2]} pixels of "
            f"{found.dtype}, expected {first.shape[1]} x {first.shape[2]} of "
            f"{first.dtype} as in {first.uri}; leave it out or image it again",
            uri=found.uri,
        )
