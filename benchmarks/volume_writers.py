"""One volume with its pyramid written by one library; prints what it cost.

    python volume_writers.py WRITER SOURCE.npy TARGET.zarr LEVELS

Runs in a process of its own. The interpreter's start, imports and the loading of the
volume do not count. Peers get what suits them best: the volume in memory, Dask over
whole shards, the cheaper of their means.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from pyramid_writers import cpu_seconds, memory_mb

CHUNK, SHARD, VOXEL_NM = 64, 256, 8.0
Write = Callable[[np.ndarray, str, int], object]
Z, Y, X = "z", "y", "x"


def ours() -> Write:
    """With the statistics and digest of the voxels, which no peer makes."""
    from em_platform.config import OutputSettings
    from em_platform.model.volume import VolumeInfo
    from em_platform.ome_zarr import write_volume
    from em_platform.stitching.compute import keep_freed_memory
    from em_platform.storage.manifest import Product

    keep_freed_memory()  # as the command and the Dask workers do

    class InMemory:
        def __init__(self, voxels: np.ndarray) -> None:
            self.voxels = voxels
            self.info = VolumeInfo(
                uri="memory",
                format="array",
                shape=voxels.shape,
                dtype=voxels.dtype.name,
                voxel_size_nm=(VOXEL_NM,) * 3,
            )

        def read(self, region: Any) -> np.ndarray:
            return self.voxels[region]

    def write(voxels: np.ndarray, target: str, levels: int) -> None:
        write_volume(
            target,
            InMemory(voxels),
            settings=OutputSettings(chunk_px=CHUNK, shard_px=SHARD, levels=levels),
            name="tissue",
            product=Product(kind="volume", of="a test"),
            fingerprint="tissue",
        )

    return write


def zarr_and_dask() -> Write:
    import dask.array as da
    import zarr
    from zarr.codecs import ZstdCodec

    def write(voxels: np.ndarray, target: str, levels: int) -> None:
        current = da.from_array(voxels, chunks=(SHARD,) * 3, name=False)
        for level in range(levels):
            array = zarr.create_array(
                f"{target}/{level}",
                shape=current.shape,
                dtype=current.dtype,
                chunks=(CHUNK,) * 3,
                shards=(SHARD,) * 3,
                compressors=ZstdCodec(level=1),
            )
            da.store(current.rechunk((SHARD,) * 3), array, lock=False)
            below = da.from_zarr(f"{target}/{level}", chunks=(SHARD,) * 3)
            means = da.coarsen(np.mean, below, dict.fromkeys(range(3), 2))
            current = means.round().astype(voxels.dtype)

    return write


def ngff_zarr() -> Write:
    import dask.array as da
    from ngff_zarr import Methods, to_multiscales, to_ngff_image, to_ngff_zarr

    zstd = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}

    def write(voxels: np.ndarray, target: str, levels: int) -> None:
        lazy = da.from_array(voxels, chunks=(SHARD,) * 3, name=False)
        scale = dict.fromkeys((Z, Y, X), VOXEL_NM)
        multiscales = to_multiscales(
            to_ngff_image(lazy, dims=[Z, Y, X], scale=scale),
            scale_factors=[2**level for level in range(1, levels)],
            method=Methods.ITKWASM_BIN_SHRINK,
            chunks=CHUNK,
        )
        to_ngff_zarr(
            target,
            multiscales,
            version="0.5",
            chunks_per_shard=SHARD // CHUNK,
            compressors=zstd,
        )

    return write


def ome_zarr_py() -> Write:
    import dask.array as da
    from ome_zarr.writer import write_image
    from zarr.codecs import ZstdCodec

    def write(voxels: np.ndarray, target: str, levels: int) -> None:
        write_image(
            da.from_array(voxels, chunks=(SHARD,) * 3, name=False),
            target,
            scale_factors=[
                dict.fromkeys((Z, Y, X), 2**level) for level in range(1, levels)
            ],
            method="local_mean",
            axes="zyx",
            scale=dict.fromkeys((Z, Y, X), VOXEL_NM),
            axes_units=dict.fromkeys((Z, Y, X), "nanometer"),
            storage_options={
                "chunks": (CHUNK,) * 3,
                "shards": (SHARD,) * 3,
                "compressors": ZstdCodec(level=1),
            },
        )

    return write


WRITERS: dict[str, Callable[[], Write]] = {
    "ours": ours,
    "zarr-and-dask": zarr_and_dask,
    "ngff-zarr": ngff_zarr,
    "ome-zarr-py": ome_zarr_py,
}


def main() -> None:
    writer, source, target, levels = sys.argv[1:]
    write, voxels = WRITERS[writer](), np.load(source)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is held now
    base, cpu, wall = memory_mb("VmRSS"), cpu_seconds(), time.perf_counter()
    write(voxels, target, int(levels))
    cost = {
        "cpu_s": cpu_seconds() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": memory_mb("VmHWM") - base,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
