"""FlyEM's hemibrain, small: DVID, a bucket of precomputed volumes, and neuPrint."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.standins import dvid, neuprint
from em_platform.standins.dvid import HEMIBRAIN_UUID, Dvid
from em_platform.standins.dvid_blocks import Instance, Place
from em_platform.standins.filehost import FileHost
from em_platform.standins.neuprint import HEMIBRAIN, TOKEN, Neuprint, certificates
from em_platform.standins.part import Ground, Part, Site, Tree
from em_platform.standins.pixels import Pixels, Voxels
from em_platform.standins.precomputed import write_precomputed

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
            "dvid": Site(handler=server, refuse=dvid.refuse),
            "flyem": Site(handler=host),
            "neuprint": Site(handler=Neuprint(), refuse=neuprint.refuse, tls=context),
        },
        settings=settings,
        keys=_CROPS[ground.size],
        truth=truth,
        trees=(bucket,),
    )
