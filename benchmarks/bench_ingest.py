"""Benchmark 10: public sources into OME-Zarr, over loopback.

A Zarr v2 in an anonymous bucket (64^3 chunks, int16) against `zarr` + `dask` and
ngff-zarr; a TIFF behind HTTP against download + ome-zarr-py. Every writer in a process
of its own, the server in another, which does not count. Memory is the most that one
process held.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import zarr
from peers import PeerMissing, environment
from timing import BENCH, Cost, arguments, finish, measure, report

HERE = Path(__file__).parent
PLACE = BENCH / "data" / "ingest"
WANTED = 3.0


@contextmanager
def server() -> Iterator[Path]:
    """A file with the addresses of the world that serves within the block."""
    PLACE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "ingest_server.py"), str(PLACE / "world")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_env()
    )
    try:
        path = PLACE / "server.json"
        path.write_text(process.stdout.readline())
        yield path
    finally:
        process.communicate("")


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE.parent)}


def write(python: Path, writer: str, addresses: Path) -> Cost:
    target = PLACE / f"{writer}.zarr"
    for left in (target, Path(f"{target}.raw")):
        shutil.rmtree(left, ignore_errors=True)
    command = [str(python), str(HERE / "ingest_writers.py"), writer]
    done = subprocess.run(
        [*command, str(addresses), str(target)],
        capture_output=True,
        text=True,
        check=False,
        env=_env(),
    )
    if done.returncode:
        raise RuntimeError(f"{writer}: {done.stderr.strip().splitlines()[-1]}")
    return Cost(**json.loads(done.stdout.strip().splitlines()[-1]))


def same_voxels(one: str, other: str) -> dict[str, float | str]:
    """Level 0 of both, compared bit by bit."""
    ours = zarr.open_array(PLACE / f"{one}.zarr" / "0", mode="r")
    path = PLACE / f"{other}.zarr"
    inner = next(
        p for p in (path / "0", path / "s0", path / "scale0/image") if p.exists()
    )
    theirs = zarr.open_array(inner, mode="r")
    if not np.array_equal(ours[:], theirs[:]):
        raise AssertionError(f"{one} and {other} have other voxels")
    return {"voxels": f"{ours.shape} {ours.dtype}, equal bit by bit"}


def main() -> int:
    given = arguments(__doc__.splitlines()[0], repeats=2)
    own = Path(sys.executable)
    bucket = {"bucket-ours": own, "bucket-zarr-dask": own}
    try:
        bucket["bucket-ngff-zarr"] = environment("ngff-zarr")
    except PeerMissing as missing:
        print(missing)
    tiff = {
        "tiff-ours": own,
        "tiff-ome-zarr-py": own,
        "tiff-ome-zarr-py-local-mean": own,
    }
    figures = []
    with server() as addresses:
        for title, pythons, twin in (
            ("S3 Zarr v2 to OME-Zarr", bucket, "bucket-zarr-dask"),
            ("HTTP TIFF to OME-Zarr", tiff, "tiff-ome-zarr-py"),
        ):
            runs = {n: partial(write, p, n, addresses) for n, p in pythons.items()}
            costs = measure(
                runs, repeats=1 if given.quick else given.repeats, warm_up=0
            )
            wanted = dict.fromkeys(list(costs)[1:], WANTED)
            wanted.pop("tiff-ome-zarr-py-local-mean", None)
            first = next(iter(costs))
            figures.append(
                report(title, costs, accuracy=same_voxels(first, twin), wanted=wanted)
            )
    for left in PLACE.glob("*.zarr*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
    return finish(figures, path=given.json)


if __name__ == "__main__":
    sys.exit(main())
