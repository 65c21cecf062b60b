"""Benchmark 6: a mosaic from tile files against feabas, ashlar and multiview-stitcher.

Montage A (5x5 of 2048^2, 12 % overlap, sub-pixel places known), linear blending. Ours
writes a sharded OME-Zarr with its pyramid, the peers only fill memory. `ours-affine`
takes the general way, through a grid of nodes, as for a lens or turned tiles.
`--quick` takes 3x3 tiles.
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

from montage_data import make_dataset
from peers import PeerMissing, environment
from timing import BENCH, Cost, arguments, finish, measure, report

RENDERERS = Path(__file__).with_name("render_peers.py")
SCRATCH = BENCH / "data" / "render"
WANTED = {"feabas": 8.0, "ashlar": 8.0, "multiview": 8.0}


def render(python: Path, renderer: str, montage: Path) -> Cost:
    target = SCRATCH / f"{renderer}.zarr"
    shutil.rmtree(target, ignore_errors=True)
    arguments_ = [renderer, str(montage), str(target), str(sample_of(renderer))]
    done = subprocess.run(
        [str(python), str(RENDERERS), *arguments_],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(RENDERERS.parent.parent), "PATH": "/usr/bin:/bin"},
        cwd=SCRATCH,
    )
    if done.returncode:
        raise RuntimeError(f"{renderer}: {done.stderr.strip().splitlines()[-1]}")
    return Cost(**json.loads(done.stdout.strip().splitlines()[-1]))


def sample_of(renderer: str) -> Path:
    return SCRATCH / f"{renderer}.npy"


def accuracy(renderers: list[str]) -> dict[str, float | str]:
    """How far each one's pixels are from ours, on a square with overlaps."""
    own = np.load(sample_of("ours")).astype(float)
    differences: dict[str, float | str] = {}
    for renderer in renderers[1:]:
        other = np.load(sample_of(renderer)).astype(float)
        mean = float(np.abs(own - other).mean())
        differences[f"mean difference of {renderer} from ours, grey levels"] = mean
    if (
        float(differences["mean difference of ours-affine from ours, grey levels"])
        > 0.1
    ):
        raise AssertionError("both ways of rendering must give the same pixels")
    return differences


def main() -> int:
    given = arguments(__doc__.splitlines()[0], repeats=2)
    side = 3 if given.quick else 5
    folder = BENCH / "data" / ("quick" if given.quick else "")
    montage = make_dataset(folder, "A", tiles=(side, side))
    # feabas looks for its settings in the working folder; its package has none.
    (SCRATCH / "configs").mkdir(parents=True, exist_ok=True)
    settings = "parallel_framework: thread\ncpu_budget: 1\nfull_resolution: 4\n"
    (SCRATCH / "configs" / "general_configs.yaml").write_text(settings)
    pythons = {"ours": Path(sys.executable), "ours-affine": Path(sys.executable)}
    for peer in WANTED:
        try:
            pythons[peer] = environment(peer)
        except PeerMissing as missing:
            print(missing)
    contenders = {
        name: partial(render, python, name, montage) for name, python in pythons.items()
    }
    costs = measure(contenders, repeats=1 if given.quick else given.repeats, warm_up=0)
    figures = report(
        f"mosaic of {side}x{side} tiles of 2048^2 from files",
        costs,
        accuracy=accuracy(list(pythons)),
        wanted={name: goal for name, goal in WANTED.items() if name in costs},
    )
    shutil.rmtree(SCRATCH)
    return finish([figures], path=given.json)


if __name__ == "__main__":
    sys.exit(main())
