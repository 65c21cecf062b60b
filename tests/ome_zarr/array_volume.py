"""A volume in memory, written small, and the bytes of what was written."""

import hashlib
from pathlib import Path

import numpy as np

from em_platform.config import OutputSettings
from em_platform.model.volume import VolumeInfo
from em_platform.ome_zarr import write_volume
from em_platform.storage.manifest import Product

SETTINGS = OutputSettings(chunk_px=8, shard_px=16)
CELLS = Product(kind="volume", of="cells")
RNG = np.random.default_rng(11)
VOXELS = RNG.integers(1, 256, (40, 71, 53), dtype=np.uint8)


class ArrayVolume:
    """Voxels in memory; remembers what was read."""

    def __init__(self, voxels, **more):
        self.voxels, self.regions = voxels, []
        self.info = VolumeInfo(
            uri="memory",
            format="array",
            shape=voxels.shape,
            dtype=voxels.dtype.name,
            **more,
        )

    def read(self, region):
        self.regions.append(region)
        return self.voxels[region]


class Breaks(ArrayVolume):
    """Gives voxels, and an error at the n-th read."""

    def __init__(self, voxels, error, *, at, **more):
        super().__init__(voxels, **more)
        self.error, self.at = error, at

    def read(self, region):
        found = super().read(region)
        if len(self.regions) == self.at:
            raise self.error
        return found


def write(target, volume, settings=SETTINGS, **more):
    if isinstance(volume, np.ndarray):
        volume = ArrayVolume(volume, voxel_size_nm=(4.0, 4.0, 4.0))
    more = {"name": "cells", "product": CELLS, "fingerprint": "one"} | more
    return write_volume(str(target), volume, settings=settings, **more)


def digest(folder):
    total = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()
