"""The volumes of FlyEM out of which crops are taken, in each way to read them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from em_platform.formats import Volume
from em_platform.ingest.dvid import Dvid, encoding_of
from em_platform.ingest.dvid_boxes import aligned
from em_platform.ingest.dvid_instance import DvidVersion, Three, parse_info
from em_platform.ingest.dvid_volume import dvid_volume
from em_platform.ingest.flyem_crops import Crop
from em_platform.ingest.web import Web


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
    """Whether the voxels come as they are, so that their bytes can be told before."""
    version: DvidVersion | None = None
    labels: bool = False
    sharded: bool = False
    """Whether its objects are many chunks each, of which a crop needs some."""
    snapshot: dict[str, Any] = field(default_factory=dict)

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
        """The bytes that come over the network, where they can be told."""
        if not self.estimable:
            return None
        if self.way == "raw":
            return self.bytes_of(crop)
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


def whole_of_precomputed(url: str, web: Web, options: dict[str, Any]) -> Whole:
    """The finest scale of a precomputed volume."""
    from em_platform.formats import open_chunked

    url = url.removeprefix("precomputed://").rstrip("/")
    info = open_chunked(url, format="precomputed", options=options).info
    voxel = info.voxel_size_nm or (1.0, 1.0, 1.0)
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
