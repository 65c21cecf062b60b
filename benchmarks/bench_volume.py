"""Benchmark: a volume in one pass against plain Dask, ngff-zarr and ome-zarr-py.

Same chunks (64), shards (256), codec (zstd level 1) and number of levels; every writer
in a process of its own, the volume in memory. Ours also measures and hashes the voxels.
Peak memory is over what the process held when the volume was loaded. `--quick` takes
256 MiB instead of 1 GiB.
"""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import zarr
from ome_zarr_models.v05 import Image
from peers import PeerMissing, environment
from timing import BENCH, Cost, arguments, finish, measure, report

from em_platform.simulation.specimen.tissue import tissue

WRITERS = Path(__file__).with_name("volume_writers.py")
WANTED = {"zarr-and-dask": 3.0, "ngff-zarr": 3.0, "ome-zarr-py": 3.0}
LEVELS = 4


def source(shape: tuple[int, int, int]) -> Path:
    """Tissue with a detector's noise; no two shards are alike."""
    path = BENCH / "data" / f"volume_{'_'.join(map(str, shape))}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(1)
        clean = tissue(0, 0, height=shape[1], width=shape[2])
        noise = rng.normal(0.0, 12.0, (8, *clean.shape)).astype(np.float32)
        voxels = np.empty(shape, np.uint8)
        for z in range(shape[0]):
            section = np.roll(clean, z, axis=1) + np.roll(noise[z % 8], 37 * z, axis=0)
            voxels[z] = np.clip(np.rint(section), 0, 255)
        np.save(path, voxels)
    return path


def write(python: Path, writer: str, volume: Path) -> Cost:
    target = BENCH / "data" / f"volume-{writer}.zarr"
    shutil.rmtree(target, ignore_errors=True)
    command = [str(python), str(WRITERS), writer, str(volume), str(target), str(LEVELS)]
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


def accuracy(volume: Path) -> dict[str, float | str]:
    """Our levels against means of 2 x 2 x 2, and the metadata against the models."""
    group = zarr.open_group(BENCH / "data" / "volume-ours.zarr", mode="r")
    Image.from_zarr(group)
    below = np.load(volume, mmap_mode="r")[:128, :512, :512]
    if not np.array_equal(group["0"][:128, :512, :512], below):
        raise AssertionError("level 0 is not the source")
    for level in range(1, LEVELS):
        z, y, x = (length // 2 for length in below.shape)
        blocks = below.reshape(z, 2, y, 2, x, 2).sum(axis=(1, 3, 5), dtype=np.int64)
        found = group[str(level)][:z, :y, :x]
        if not np.array_equal(found, (blocks + 4) // 8):
            raise AssertionError(f"level {level} is not the means of 2 x 2 x 2")
        below = found
    return {
        "level 0": "bit-exact",
        "levels": "exact means of 2 x 2 x 2",
        "metadata": "valid for ome-zarr-models",
    }


def main() -> int:
    given = arguments(__doc__.splitlines()[0], repeats=2)
    volume = source((256, 1024, 1024) if given.quick else (512, 1024, 2048))
    own = Path(sys.executable)
    pythons = {"ours": own, "zarr-and-dask": own}
    try:
        pythons["ngff-zarr"] = environment("ngff-zarr")
    except PeerMissing as missing:
        print(missing)
    pythons["ome-zarr-py"] = own
    contenders = {
        name: partial(write, python, name, volume) for name, python in pythons.items()
    }
    repeats = 1 if given.quick else given.repeats
    costs = measure(contenders, repeats=repeats, warm_up=0)
    shape = " x ".join(map(str, np.load(volume, mmap_mode="r").shape))
    figures = report(
        f"volume of {LEVELS} levels, {shape} uint8",
        costs,
        accuracy=accuracy(volume),
        wanted={name: goal for name, goal in WANTED.items() if name in costs},
    )
    for name in pythons:
        shutil.rmtree(BENCH / "data" / f"volume-{name}.zarr", ignore_errors=True)
    return finish([figures], path=given.json)


if __name__ == "__main__":
    sys.exit(main())
