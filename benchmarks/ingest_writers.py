"""One remote volume made an OME-Zarr by one library; prints what it cost.

    python ingest_writers.py WRITER SERVER.json TARGET

Runs in a process of its own. The interpreter's start and the imports do not count.
Every writer makes the same levels, chunks (64), shards (256) and codec (zstd level 1),
and gets what suits it best: Dask over whole shards, two threads.
"""

import atexit
import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

CHUNK, SHARD, LEVELS = 64, 256, 3
ARRAY = "jrc_mus-nacc-2/jrc_mus-nacc-2.zarr/recon-2/em/fibsem-int16"
Server = dict[str, Any]
Write = Callable[[Server, str], object]
Z, Y, X = "z", "y", "x"


def ours(key: str) -> Write:
    """All steps of `em-platform ingest` but the record, two Dask workers."""
    from em_platform.config import load_settings
    from em_platform.ingest.source import Silent
    from em_platform.ingest.sources import open_source
    from em_platform.ome_zarr import write_volume
    from em_platform.stitching.compute import (
        dask_map,
        local_cluster,
        worker_peak_memory_mb,
    )
    from em_platform.storage.manifest import Product

    cluster = ExitStack()
    atexit.register(cluster.close)
    client = cluster.enter_context(local_cluster(2, memory_limit_mb=2048))
    # A worker's start and imports do not count, as those of this process do not.
    before = sum(client.run(_load).values())

    def write(server: Server, target: str) -> tuple[float, float]:
        name, _, item = key.partition("/")
        levels = {"ingest.output.levels": str(LEVELS)}
        settings = load_settings(overrides={**server["settings"], **levels})
        source = open_source(name, settings)
        entry = source.describe(item)
        source.fetch(entry, Path(f"{target}.raw"), Silent())
        write_volume(
            target,
            source.open(entry, Path(f"{target}.raw")),
            settings=settings.ingest.output,
            name=entry.title,
            product=Product(kind="volume", of="a test"),
            fingerprint=key,
            run=dask_map(client),
        )
        peak = max(worker_peak_memory_mb(client), memory_mb("VmHWM"))
        used = sum(client.run(time.process_time).values()) - before
        return peak, used  # and the cluster ends with this process

    return write


def _load() -> float:
    """CPU seconds of a worker that has imported what its work needs."""
    import tensorstore  # noqa: F401

    import em_platform.formats.chunked
    import em_platform.formats.open
    import em_platform.ome_zarr.volume_writer  # noqa: F401

    return time.process_time()


def from_bucket(server: Server) -> Any:
    """The bucket's array as Dask over whole shards, by zarr and s3fs."""
    import dask.array as da
    import zarr

    options = {"anon": True, "endpoint_url": server["urls"]["s3"]}
    url = f"s3://janelia-cosem-datasets/{ARRAY}/s0"
    array = zarr.open_array(url, mode="r", storage_options=options)
    return da.from_array(array, chunks=(SHARD,) * 3, name=False)


def downloaded(server: Server, target: str) -> np.ndarray:
    """The TIFF, by one request to a file and then into memory."""
    import requests
    import tifffile

    url = f"{server['settings']['ingest.epfl.files_urls']}/volumedata.tif"
    path = Path(f"{target}.tif")
    with requests.get(url, stream=True, timeout=60) as answer, path.open("wb") as file:
        answer.raise_for_status()
        for part in answer.iter_content(2**20):
            file.write(part)
    return tifffile.imread(path)


def zarr_and_dask() -> Write:
    """A copy and its levels by zarr and Dask, one after the other."""
    import dask.array as da
    import zarr
    from zarr.codecs import ZstdCodec

    def write(server: Server, target: str) -> None:
        current = from_bucket(server)
        dtype = current.dtype
        for level in range(LEVELS):
            array = zarr.create_array(
                f"{target}/{level}",
                shape=current.shape,
                dtype=dtype,
                chunks=(CHUNK,) * 3,
                shards=(SHARD,) * 3,
                compressors=ZstdCodec(level=1),
            )
            da.store(current.rechunk((SHARD,) * 3), array, lock=False)
            below = da.from_zarr(f"{target}/{level}", chunks=(SHARD,) * 3)
            whole = tuple(slice(length // 2 * 2) for length in below.shape)
            means = da.coarsen(np.mean, below[whole], dict.fromkeys(range(3), 2))
            current = means.round().astype(dtype)

    return write


def ngff_zarr(read: Callable[[Server, str], Any]) -> Write:
    import dask.array as da
    from ngff_zarr import Methods, to_multiscales, to_ngff_image, to_ngff_zarr

    zstd = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}

    def write(server: Server, target: str) -> None:
        found = read(server, target)
        lazy = da.asarray(found).rechunk((SHARD,) * 3)
        multiscales = to_multiscales(
            to_ngff_image(lazy, dims=[Z, Y, X]),
            scale_factors=[2**level for level in range(1, LEVELS)],
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


def ome_zarr_py(method: str) -> Write:
    import dask.array as da
    from ome_zarr.writer import write_image
    from zarr.codecs import ZstdCodec

    def write(server: Server, target: str) -> None:
        image = downloaded(server, target)
        write_image(
            da.from_array(image, chunks=(SHARD,) * 3, name=False),
            target,
            scale_factors=[2**level for level in range(1, LEVELS)],
            method=method,
            axes="zyx",
            storage_options={
                "chunks": (CHUNK,) * 3,
                "shards": (SHARD,) * 3,
                "compressors": ZstdCodec(level=1),
            },
        )

    return write


WRITERS: dict[str, Callable[[], Write]] = {
    "bucket-ours": lambda: ours("openorganelle/" + ARRAY_KEY),
    "bucket-zarr-dask": zarr_and_dask,
    "bucket-ngff-zarr": lambda: ngff_zarr(lambda server, _: from_bucket(server)),
    "tiff-ours": lambda: ours("epfl/volumedata"),
    "tiff-ome-zarr-py": lambda: ome_zarr_py("resize"),
    "tiff-ome-zarr-py-local-mean": lambda: ome_zarr_py("local_mean"),
}
ARRAY_KEY = "jrc_mus-nacc-2.recon-2.em.fibsem-int16.s0"


def memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(name)).split()[1]) / 1024


@contextmanager
def most_memory() -> Iterator[list[float]]:
    """The most that this process holds within the block, seen every 20 ms."""
    held = [memory_mb("VmRSS")]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            held[0] = max(held[0], memory_mb("VmRSS"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield held
    finally:
        over.set()
        thread.join()


def cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def main() -> None:
    writer, server, target = sys.argv[1:]
    write = WRITERS[writer]()
    addresses = json.loads(Path(server).read_text())
    import dask

    with dask.config.set(scheduler="threads", num_workers=2), most_memory() as held:
        wall, cpu = time.perf_counter(), cpu_seconds()
        peak, workers_cpu = write(addresses, target) or (0.0, 0.0)
        cost = {
            "cpu_s": cpu_seconds() - cpu + workers_cpu,
            "wall_s": time.perf_counter() - wall,
            "peak_mb": peak or held[0],
        }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
