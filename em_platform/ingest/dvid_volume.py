"""A crop of a DVID instance, read in place."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.formats import Region, bounds_of, shape_of
from em_platform.ingest.dvid import Dvid
from em_platform.ingest.dvid_instance import DvidInstance, Three
from em_platform.model.volume import VolumeInfo

WAYS = ("raw", "subvolblocks", "specificblocks")
"""DVID's endpoints for voxels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DvidVolume:
    """The voxels from `corner` (z, y, x) on, of the shape that `info` says.

    `way` is the endpoint; `most_raw_bytes` bounds one answer of `raw`. Every read asks
    for exactly its region, or for the blocks that it touches.
    """

    info: VolumeInfo
    dvid: Dvid
    instance: DvidInstance
    corner: Three
    way: str
    most_raw_bytes: int

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`."""
        bounds = bounds_of(region, self.info.shape)
        shape = shape_of(bounds)
        if 0 in shape:
            return np.zeros(shape, self.instance.dtype)
        z, y, x = (c + first for c, (first, _) in zip(self.corner, bounds, strict=True))
        box = (z, y, x), shape
        if self.way == "raw":
            return self.dvid.raw(self.instance, box, most_bytes=self.most_raw_bytes)
        if self.way == "subvolblocks":
            return self.dvid.subvolblocks(self.instance, box)[0]
        return self.dvid.specificblocks(self.instance, box)[0]


def dvid_volume(
    dvid: Dvid,
    instance: DvidInstance,
    *,
    crop: tuple[Three, Three],
    way: str,
    most_raw_bytes: int,
) -> DvidVolume:
    """A crop (corner and shape, z, y, x) of an instance."""
    corner, shape = crop
    voxel = instance.voxel_size_nm
    origin = (0.0, 0.0, 0.0)
    if voxel is not None:
        z, y, x = (c * length for c, length in zip(corner, voxel, strict=True))
        origin = z, y, x
    info = VolumeInfo(
        uri=dvid.node_url,
        format=f"DVID {instance.type_name}",
        shape=shape,
        dtype=instance.dtype,
        voxel_size_nm=voxel,
        origin_nm=origin,
        chunk_shape=instance.block_shape,
        tags={"uuid": dvid.uuid, "instance": instance.name, "endpoint": way},
    )
    return DvidVolume(
        info=info,
        dvid=dvid,
        instance=instance,
        corner=corner,
        way=way,
        most_raw_bytes=most_raw_bytes,
    )
