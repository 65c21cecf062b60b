"""The volumes of FlyEM out of which crops are taken, in each way to read them."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import ConfigError
from em_platform.formats import Region, Volume, bounds_of, shape_of
from em_platform.ingest.dvid import Dvid, encoding_of
from em_platform.ingest.dvid_instance import (
    DvidInstance,
    DvidVersion,
    Three,
    aligned,
    parse_info,
)
from em_platform.ingest.web import Web
from em_platform.model.ingest import Snapshot
from em_platform.model.volume import VolumeInfo
from em_platform.storage.layout import StorageOptions

Crop = tuple[Three, Three]
"""Corner and shape, z, y, x."""

_KEY = re.compile(r"\d+(_\d+){5}")


def crop_of(key: str) -> Crop:
    """Corner and shape that a key names.

    Raises
    ------
    ConfigError
        It names none.
    """
    numbers = [int(n) for n in key.split("_")] if _KEY.fullmatch(key) else []
    if not numbers or 0 in numbers[3:]:
        raise ConfigError(
            f"flyem: {key!r} is no crop, expected its corner and its shape in voxels "
            "as z_y_x_dz_dy_dx, such as 20000_18000_16000_512_512_512; correct "
            "ingest.flyem.items"
        )
    z, y, x, dz, dy, dx = numbers
    return (z, y, x), (dz, dy, dx)


def key_of(crop: Crop) -> str:
    """The key of a crop."""
    return "_".join(str(n) for part in crop for n in part)


def middle_crop(low: Three, high: Three, *, shape: Three, block: Three) -> Crop:
    """A crop in the middle that begins at a block, and ends at the volume's end.

    The same for the same volume, so that it is fetched once and not at each run anew.
    """
    corner, edges = [], []
    for first, end, wanted, edge in zip(low, high, shape, block, strict=True):
        length = min(wanted, end - first)
        begin = (first + (end - first - length) // 2) // edge * edge
        # The block may begin before the volume does.
        corner.append(max(begin, first))
        edges.append(length)
    return (corner[0], corner[1], corner[2]), (edges[0], edges[1], edges[2])


def extents(low: Three, high: Three) -> str:
    """First and last voxel along each axis, in words."""
    return ", ".join(
        f"{axis} {first}-{end - 1}"
        for axis, first, end in zip("zyx", low, high, strict=True)
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """One volume, read in one way: an endpoint of DVID, or `precomputed`.

    `low` and `high` are its first voxel and the first one behind it.
    """

    way: str
    url: str
    name: str
    low: Three
    high: Three
    block_shape: Three
    dtype: str
    voxel_size_nm: tuple[float, float, float] | None
    estimable: bool
    """Whether the voxels come as they are, so that their size is known before."""
    version: DvidVersion | None = None
    labels: bool = False
    sharded: bool = False
    """Whether its objects are many chunks each, of which a crop needs some."""
    snapshot: Snapshot = field(default_factory=dict)

    def holds(self, crop: Crop) -> bool:
        """Whether a crop lies within."""
        return all(
            low <= c and c + n <= high
            for low, c, n, high in zip(self.low, *crop, self.high, strict=True)
        )

    def bytes_of(self, crop: Crop) -> int:
        """Of the crop's voxels, uncompressed."""
        z, y, x = crop[1]
        return z * y * x * np.dtype(self.dtype).itemsize

    def estimate(self, crop: Crop) -> int | None:
        """The bytes that come over the network, where that is known."""
        if not self.estimable:
            return None
        if self.way == "raw":
            return self.bytes_of(crop)
        # 16 bytes of place and length stand before each block (`dvid_instance`).
        return self.bytes_of(aligned(crop, self.block_shape)) + 16 * self.blocks(crop)

    def blocks(self, crop: Crop) -> int:
        """How many blocks a crop touches."""
        shape = aligned(crop, self.block_shape)[1]
        z, y, x = (n // edge for n, edge in zip(shape, self.block_shape, strict=True))
        return z * y * x


def whole_of_dvid(
    dvid: Dvid, info: Any, *, way: str, version: DvidVersion | None = None
) -> Whole:
    """The volume that DVID's `/info` tells of."""
    instance = parse_info(info, who=dvid.web.who, url=f"{dvid.node_url}/info")
    plain = way == "raw" or encoding_of(instance) == "uncompressed"
    return Whole(
        way=way,
        url=dvid.node_url,
        name=instance.name,
        low=instance.low,
        high=instance.high,
        block_shape=instance.block_shape,
        dtype=instance.dtype,
        voxel_size_nm=instance.voxel_size_nm,
        estimable=plain and not instance.is_labels,
        version=version,
        labels=instance.is_labels,
        snapshot={"info": info},
    )


def whole_of_precomputed(url: str, web: Web, options: StorageOptions) -> Whole:
    """The finest scale of a precomputed volume."""
    from em_platform.formats import open_chunked

    url = url.removeprefix("precomputed://").rstrip("/")
    info = open_chunked(url, format="precomputed", options=options).info
    voxel = info.voxel_size_nm or (1.0, 1.0, 1.0)
    # The offset is a whole number of voxels; its nanometres are floats.
    z, y, x = (round(at / n) for at, n in zip(info.origin_nm, voxel, strict=True))
    high_z, high_y, high_x = (
        at + n for at, n in zip((z, y, x), info.shape, strict=True)
    )
    return Whole(
        way="precomputed",
        url=info.uri,
        name="/".join(info.uri.rstrip("/").split("/")[-3:]),
        low=(z, y, x),
        high=(high_z, high_y, high_x),
        # 64³ is what FlyEM's volumes have.
        block_shape=info.chunk_shape or (64, 64, 64),
        dtype=info.dtype,
        voxel_size_nm=info.voxel_size_nm,
        estimable=False,
        labels=info.tags.get("type") == "segmentation",
        sharded=info.tags.get("sharding", "none") != "none",
        snapshot={"info": _json_of(url, web)},
    )


def _json_of(url: str, web: Web) -> Any:
    if url.startswith("gs://"):
        # The bucket is public by HTTPS, and needs no client of Google's.
        url = "https://storage.googleapis.com/" + url.removeprefix("gs://")
    return web.json(f"{url}/info") if url.startswith("http") else {}


def open_dvid(
    dvid: Dvid, info: Any, *, crop: Crop, way: str, most_raw_bytes: int
) -> Volume:
    """A crop that is read from DVID."""
    instance = parse_info(info, who=dvid.web.who, url=f"{dvid.node_url}/info")
    return dvid_volume(
        dvid, instance, crop=crop, way=way, most_raw_bytes=most_raw_bytes
    )
