"""One pyramid written by one library, in a process of its own; prints what it cost.

    python pyramid_writers.py WRITER SOURCE.npy TARGET.zarr LEVELS

The interpreter's start, imports and the loading of the image do not count. Peers get
what suits them best: the image in memory, Dask over whole shards.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHUNK, SHARD, PIXEL_NM = 512, 4096, 4.0
Write = Callable[[np.ndarray, str, int], object]


def ours() -> Write:
    from em_platform.config import RenderSettings
    from em_platform.ome_zarr import write_pyramid
    from em_platform.stitching.compute import keep_freed_memory
    from em_platform.storage.manifest import Product

    keep_freed_memory()  # as the command and the Dask workers do

    def write(image: np.ndarray, target: str, levels: int) -> None:
        write_pyramid(
            target,
            image.shape,
            dtype=image.dtype,
            render=lambda region: image[region],
            settings=RenderSettings(chunk_px=CHUNK, shard_px=SHARD, levels=levels),
            name="noise",
            product=Product(kind="mosaic", of="a test"),
            fingerprint="noise",
            voxel_nm=(PIXEL_NM, PIXEL_NM),
        )

    return write


def ome_zarr_py(method: str) -> Write:
    import dask.array as da
    from ome_zarr.writer import write_image
    from zarr.codecs import ZstdCodec

    def write(image: np.ndarray, target: str, levels: int) -> None:
        write_image(
            da.from_array(image, chunks=(SHARD, SHARD), name=False),
            target,
            scale_factors=[2**level for level in range(1, levels)],
            method=method,
            axes="yx",
            scale={"y": PIXEL_NM, "x": PIXEL_NM},
            axes_units={"y": "nanometer", "x": "nanometer"},
            storage_options={
                "chunks": (CHUNK, CHUNK),
                "shards": (SHARD, SHARD),
                "compressors": ZstdCodec(level=1),
            },
        )

    return write


def ngff_zarr() -> Write:
    import dask.array as da
    from ngff_zarr import Methods, to_multiscales, to_ngff_image, to_ngff_zarr

    zstd = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}

    def write(image: np.ndarray, target: str, levels: int) -> None:
        lazy = da.from_array(image, chunks=(SHARD, SHARD), name=False)
        scale = {"y": PIXEL_NM, "x": PIXEL_NM}
        multiscales = to_multiscales(
            to_ngff_image(lazy, dims=["y", "x"], scale=scale),
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


def dask_naive() -> Write:
    import dask.array as da
    import zarr
    from zarr.codecs import ZstdCodec

    def write(image: np.ndarray, target: str, levels: int) -> None:
        current = da.from_array(image, chunks=(SHARD, SHARD), name=False)
        for level in range(levels):
            array = zarr.create_array(
                f"{target}/{level}",
                shape=current.shape,
                dtype=current.dtype,
                chunks=(CHUNK, CHUNK),
                shards=(SHARD, SHARD),
                compressors=ZstdCodec(level=1),
            )
            da.store(current.rechunk((SHARD, SHARD)), array, lock=False)
            below = da.from_zarr(f"{target}/{level}", chunks=(SHARD, SHARD))
            means = da.coarsen(np.mean, below, {0: 2, 1: 2})
            current = means.round().astype(image.dtype)

    return write


WRITERS: dict[str, Callable[[], Write]] = {
    "ours": ours,
    "ome-zarr-py": lambda: ome_zarr_py("resize"),
    "ome-zarr-py-local-mean": lambda: ome_zarr_py("local_mean"),
    "ngff-zarr": ngff_zarr,
    "dask-naive": dask_naive,
}


def memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(name)).split()[1]) / 1024


def cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def main() -> None:
    writer, source, target, levels = sys.argv[1:]
    write, image = WRITERS[writer](), np.load(source)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is held now
    base, cpu, wall = memory_mb("VmRSS"), cpu_seconds(), time.perf_counter()
    write(image, target, int(levels))
    cost: dict[str, Any] = {
        "cpu_s": cpu_seconds() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": memory_mb("VmHWM") - base,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
