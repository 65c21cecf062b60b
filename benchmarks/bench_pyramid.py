"""Benchmark 7: a pyramid in one pass against ome-zarr-py, ngff-zarr and plain Dask.

Same chunks (512), shards (4096), codec (zstd level 1) and number of levels; every
writer in a process of its own, the image in memory. Peak memory is over what the
process held when the image was loaded. `--quick` takes 16384^2 instead of 32768^2.
"""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import zarr
from ome_zarr_models.v05 import Image
from peers import PeerMissing, environment
from timing import BENCH, Cost, arguments, finish, measure, report

from em_platform.simulation.specimen.tissue import tissue

WRITERS = Path(__file__).with_name("pyramid_writers.py")
WANTED = {"ome-zarr-py": 6.0, "ngff-zarr": 4.0, "dask-naive": 3.0}
LEVELS = 6


def source(side: int) -> Path:
    """Tissue with a camera's noise; no two chunks of a shard are alike."""
    path = BENCH / "data" / f"pyramid_{side}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(1)
        clean = tissue(0, 0, height=4096, width=4096)
        noise = rng.normal(0.0, 12.0, clean.shape)
        panel = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
        np.save(path, np.tile(panel, (side // 4096, side // 4096)))
    return path


def write(python: Path, writer: str, image: Path) -> Cost:
    target = BENCH / "data" / f"{writer}.zarr"
    shutil.rmtree(target, ignore_errors=True)
    command = [str(python), str(WRITERS), writer, str(image), str(target), str(LEVELS)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(WRITERS.parent.parent), "PATH": "/usr/bin:/bin"},
    )
    if done.returncode:
        raise RuntimeError(f"{writer}: {done.stderr.strip().splitlines()[-1]}")
    return Cost(**json.loads(done.stdout.strip().splitlines()[-1]))


def accuracy(image: Path) -> dict[str, float | str]:
    """Our levels against means of 2 x 2, and the metadata against the models."""
    group = zarr.open_group(BENCH / "data" / "ours.zarr", mode="r")
    Image.from_zarr(group)
    below = np.load(image, mmap_mode="r")[:8192, :8192]
    worst = float(np.abs(group["0"][:8192, :8192].astype(int) - below).max())
    for level in range(1, LEVELS):
        size = (below.shape[1] // 2, below.shape[0] // 2)
        means = cv2.resize(below.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        found = group[str(level)][: size[1], : size[0]]
        worst = max(worst, float(np.abs(found - means).max()) - 0.5)
        below = found
    if worst > 1e-3:
        raise AssertionError(f"a level is {worst} grey levels off the means of 2 x 2")
    return {
        "levels off the means of 2 x 2 beyond rounding": worst,
        "metadata": "valid for ome-zarr-models",
    }


def main() -> int:
    given = arguments(__doc__.splitlines()[0], repeats=2)
    image = source(16384 if given.quick else 32768)
    own = Path(sys.executable)
    pythons = {"ours": own, "ome-zarr-py": own, "ome-zarr-py-local-mean": own}
    try:
        pythons["ngff-zarr"] = environment("ngff-zarr")
    except PeerMissing as missing:
        print(missing)
    pythons["dask-naive"] = own
    contenders = {
        name: partial(write, python, name, image) for name, python in pythons.items()
    }
    repeats = 1 if given.quick else given.repeats
    costs = measure(contenders, repeats=repeats, warm_up=0)
    side = int(np.load(image, mmap_mode="r").shape[0])
    figures = report(
        f"pyramid of {LEVELS} levels, {side}^2 uint8",
        costs,
        accuracy=accuracy(image),
        wanted={name: goal for name, goal in WANTED.items() if name in costs},
    )
    for name in pythons:
        shutil.rmtree(BENCH / "data" / f"{name}.zarr", ignore_errors=True)
    return finish([figures], path=given.json)


if __name__ == "__main__":
    sys.exit(main())
