"""FlyEM's hemibrain, small: DVID, a bucket of precomputed volumes, and neuPrint."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from em_platform.standins import neuprint
from em_platform.standins.dvid import HEMIBRAIN_UUID, Dvid
from em_platform.standins.dvid_answers import refuse
from em_platform.standins.dvid_blocks import Grid, Instance, Place
from em_platform.standins.neuprint import HEMIBRAIN, TOKEN, Neuprint, certificates
from em_platform.standins.part import FileHost, Ground, Part, Site, Tree
from em_platform.standins.pixels import Pixels, Voxels

Encoding = Literal["raw", "jpeg", "compressed_segmentation"]
Method = Literal["mode", "mean"]
# As hemibrain's EM: sharded JPEG in chunks of 64.
CHUNK_PX = 64
JPEG_QUALITY = 85


def write_precomputed(
    folder: Path,
    grid: Grid,
    *,
    voxel_size_nm: tuple[float, float, float] = (8.0, 8.0, 8.0),
    origin: Place = (0, 0, 0),
    encoding: Encoding = "jpeg",
    layout: Literal["sharded", "unsharded"] = "sharded",
    scales: int = 2,
) -> None:
    """Write `grid` with its coarser scales below `folder`; lengths are z, y, x.

    `origin` is the `voxel_offset` of the first scale.
    """
    import tensorstore as ts

    voxels = grid.read((0, 0, 0), grid.shape)
    held = ts.array(voxels)
    # The mean of two labels would be a third one.
    method: Method = "mode" if encoding == "compressed_segmentation" else "mean"
    for index in range(scales):
        factor = 2**index
        store = ts.open(
            _spec(
                folder,
                scale=_scale(
                    # Rounded up, as `ts.downsample` rounds.
                    tuple(-(-n // factor) for n in grid.shape),
                    tuple(n * factor for n in voxel_size_nm),
                    origin=tuple(n // factor for n in origin),
                    encoding=encoding,
                    layout=layout,
                ),
                dtype=grid.dtype,
            ),
            create=True,
            open=True,
        ).result()
        smaller = held if index == 0 else ts.downsample(held, [factor] * 3, method)
        # Neuroglancer's axes are x, y, z.
        store[ts.d["channel"][0]].T.write(smaller).result()


def _scale(
    shape: tuple[int, ...],
    voxel_size_nm: tuple[float, ...],
    *,
    origin: tuple[int, ...],
    encoding: Encoding,
    layout: str,
) -> dict[str, Any]:
    """One entry of `scales`; everything in it is x, y, z."""
    scale: dict[str, Any] = {
        "size": list(reversed(shape)),
        "resolution": list(reversed(voxel_size_nm)),
        "voxel_offset": list(reversed(origin)),
        "encoding": encoding,
        "chunk_size": [CHUNK_PX] * 3,
    }
    if encoding == "jpeg":
        scale["jpeg_quality"] = JPEG_QUALITY
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    if layout == "sharded":
        scale["sharding"] = {
            "@type": "neuroglancer_uint64_sharded_v1",
            "hash": "identity",
            # Few bits, so that even a small volume has several shards.
            "preshift_bits": 3,
            "minishard_bits": 2,
            "shard_bits": 2,
            "minishard_index_encoding": "gzip",
            # Nothing is left in a JPEG for gzip.
            "data_encoding": "raw" if encoding == "jpeg" else "gzip",
        }
    return scale


def _spec(folder: Path, *, scale: dict[str, Any], dtype: str) -> dict[str, Any]:
    labels = scale["encoding"] == "compressed_segmentation"
    return {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "multiscale_metadata": {
            "type": "segmentation" if labels else "image",
            "data_type": dtype,
            "num_channels": 1,
        },
        "scale_metadata": scale,
    }


BUCKET = "neuroglancer-janelia-flyem-hemibrain"
GREY = "emdata/clahe_yz/jpeg"
"""Sharded JPEG, as the bucket has it."""
PLAIN = "emdata/raw/jpeg"
"""JPEG with a file for each chunk."""
LABELS = "v1.2/segmentation"
_SHAPES: dict[str, Place] = {
    "small": (130, 150, 200),
    "demo": (200, 264, 330),
    "bench": (520, 600, 700),
    "real": (1040, 1100, 1200),
}
_CROPS = {
    "small": ("64_0_64_64_72_100",),
    "demo": ("64_64_64_128_192_256",),
    "bench": ("0_64_128_512_512_512",),
    "real": ("12_34_56_1000_1000_1000",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Real labels in any size: one block of FIB-19, mirrored."""

    shape: Place
    dtype: str = "uint64"

    def read(self, corner: Place, shape: Place) -> NDArray[Any]:
        """The labels of a box, `(z, y, x)`."""
        edge = 64
        places = []
        for first, length in zip(corner, shape, strict=True):
            # Mirrored: two labels cannot fade into each other, as grey levels do.
            turn = np.arange(first, first + length) % (2 * edge)
            places.append(np.minimum(turn, 2 * edge - 1 - turn))
        found: NDArray[Any] = fib19()[np.ix_(*places)]
        return found


@cache
def fib19() -> NDArray[np.uint64]:
    """The block `(64, 64, 64)` of FIB-19's labels; see its README."""
    packed = (files("em_platform.standins") / "fib19/labels.dat.gz").read_bytes()
    return np.frombuffer(gzip.decompress(packed), "<u8").reshape(64, 64, 64)


def flyem(ground: Ground) -> Part:
    """Grey voxels and labels of one volume behind all three services."""
    grey = Pixels(shape=_SHAPES[ground.size], variant=4)
    labels = Labels(shape=_SHAPES[ground.size])
    server = Dvid(
        (
            Instance(name="grayscale", voxels=grey),
            Instance(name="grayscalejpeg", voxels=grey, stored="jpeg"),
            # It passes on another store, and so refuses /raw.
            Instance(name="grayscale-proxied", voxels=grey, grid_store="hemibrain"),
            Instance(name="segmentation", voxels=labels),
        )
    )

    def fill(folder: Path) -> None:
        write_precomputed(folder / GREY, grey)
        write_precomputed(folder / PLAIN, grey, layout="unsharded")
        if ground.size != "bench":  # eight bytes a voxel, all in memory
            where = folder / LABELS
            write_precomputed(where, labels, encoding="compressed_segmentation")

    def settings(urls: Mapping[str, str]) -> dict[str, str]:
        return {
            "ingest.flyem.dvid_url": urls["dvid"],
            "ingest.flyem.uuid": HEMIBRAIN_UUID,
            "ingest.flyem.items": ",".join(_CROPS[ground.size]),
            "ingest.flyem.precomputed_url": f"{urls['flyem']}/{BUCKET}/{GREY}",
            "ingest.flyem.neuprint_url": urls["neuprint"],
            "ingest.flyem.neuprint_dataset": HEMIBRAIN,
            "ingest.flyem.neuprint_token": TOKEN,
            "ingest.flyem.neuprint_certificate": str(authority),
        }

    def truth(key: str) -> Voxels:
        z, y, x, dz, dy, dx = (int(each) for each in key.split("_"))
        return grey.read((z, y, x), (dz, dy, dx))

    context, authority = certificates(ground.folder / "neuprint")
    bucket = Tree(ground.folder / "flyem", fill)
    host = FileHost(bucket, prefix=f"/{BUCKET}", faults=ground.faults)
    return Part(
        sites={
            "dvid": Site(handler=server, refuse=refuse),
            "flyem": Site(handler=host),
            "neuprint": Site(handler=Neuprint(), refuse=neuprint.refuse, tls=context),
        },
        settings=settings,
        keys=_CROPS[ground.size],
        truth=truth,
        trees=(bucket,),
    )
