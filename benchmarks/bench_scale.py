"""Memory and time per tile from 25 to 1,600 tiles of 2048^2 (6.7 Gpix).

The whole way from files to a checked mosaic on two Dask workers; the tiles are few
distinct files, hard-linked, of a periodic specimen whose true places are known. Wanted:
a worker under 2 GiB, and CPU seconds per tile that do not grow with the number of
tiles. `--quick` stops at 100 tiles. Needs 10 GB of disk while it runs.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from montage_data import make_dataset
from timing import BENCH, arguments, computer, finish

from em_platform.config import StitchingSettings
from em_platform.model import Montage, MontageFit, Size, Tile
from em_platform.stitching.compute import (
    dask_map,
    local_cluster,
    peak_memory_mb,
    worker_peak_memory_mb,
)
from em_platform.stitching.stitch import stitch_montage

WORKERS = 2
WORKER_LIMIT_MB = 2048.0
GROWTH_LIMIT = 1.25  # of CPU seconds per tile, largest montage over smallest


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One montage of the curve."""

    tiles: int
    mpix: float
    cpu_s_per_tile: float
    wall_s_per_tile: float
    worker_peak_mb: float
    client_peak_mb: float
    rmse_px: float
    steps_s: dict[str, float]


def montage_of(folder: Path, side: int) -> tuple[Montage, np.ndarray]:
    """The first `side` rows and columns, and their true places `(n, 2)`."""
    truth = json.loads((folder / "truth.json").read_text())["tiles"]
    step = json.loads((folder / "parameters.json").read_text())
    step_px = round(step["tile_px"] * (1 - step["overlap"]))
    size = Size(height_px=step["tile_px"], width_px=step["tile_px"])
    chosen = [t for t in truth if t["row"] < side and t["column"] < side]
    tiles = tuple(
        Tile(
            tile_id=Path(tile["file"]).stem,
            uri=str(folder / tile["file"]),
            row=tile["row"],
            column=tile["column"],
            y_px=tile["row"] * step_px,
            x_px=tile["column"] * step_px,
            size=size,
        )
        for tile in chosen
    )
    montage = Montage(
        acquisition_id=f"scale-{side}",
        montage_id=f"scale-{side}",
        tiles=tiles,
        tile_size=size,
        pixel_nm=4.0,
        expected_tiles=len(tiles),
    )
    return montage, np.array([[tile["y_px"], tile["x_px"]] for tile in chosen])


def worker_cpu_seconds() -> float:
    return time.process_time()


def measure(folder: Path, side: int) -> Point:
    montage, truth = montage_of(folder, side)
    target = BENCH / "data" / "scale.zarr"
    shutil.rmtree(target, ignore_errors=True)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is held now
    with local_cluster(WORKERS, memory_limit_mb=int(WORKER_LIMIT_MB)) as client:
        before = sum(client.run(worker_cpu_seconds).values()) + time.process_time()
        started = time.perf_counter()
        result = stitch_montage(
            montage, str(target), settings=StitchingSettings(), run=dask_map(client)
        )
        wall_s = time.perf_counter() - started
        after = sum(client.run(worker_cpu_seconds).values()) + time.process_time()
        peak_mb = worker_peak_memory_mb(client)
    shutil.rmtree(target)
    return Point(
        tiles=len(montage.tiles),
        mpix=result.mosaic.mpix,
        cpu_s_per_tile=(after - before) / len(montage.tiles),
        wall_s_per_tile=wall_s / len(montage.tiles),
        worker_peak_mb=peak_mb,
        client_peak_mb=peak_memory_mb(),
        rmse_px=rmse(result.fit, montage, truth),
        steps_s=result.seconds,
    )


def rmse(fit: MontageFit, montage: Montage, truth: np.ndarray) -> float:
    """Of tile places, after removing the mean offset."""
    places = {place.tile_id: (place.y_px, place.x_px) for place in fit.placements}
    found = np.array([places[tile.tile_id] for tile in montage.tiles])
    difference = found - truth
    difference -= difference.mean(axis=0)
    return float(np.sqrt((difference**2).sum(axis=1).mean()))


def show(point: Point) -> None:
    print(
        f"  {point.tiles:5d} {point.mpix:8.0f} {point.cpu_s_per_tile:11.3f} "
        f"{point.wall_s_per_tile:12.3f} {point.worker_peak_mb:10.0f} "
        f"{point.client_peak_mb:10.0f} {point.rmse_px:8.4f}"
    )
    steps = (f"{name} {seconds:.1f}" for name, seconds in point.steps_s.items())
    print(f"        seconds: {', '.join(steps)}", flush=True)


def figures(points: list[Point]) -> dict[str, Any]:
    """The same as other benchmarks report, with the curve as accuracy."""
    growth = points[-1].cpu_s_per_tile / points[0].cpu_s_per_tile
    peak_mb = max(point.worker_peak_mb for point in points)
    kept = peak_mb < WORKER_LIMIT_MB and growth < GROWTH_LIMIT
    print(f"  growth of CPU s/tile {growth:.2f}, wanted < {GROWTH_LIMIT}")
    print(f"  worker's peak {peak_mb:.0f} MB, wanted < {WORKER_LIMIT_MB:.0f}")
    if not kept:
        print("  MISSED")
    costs = {
        f"{p.tiles} tiles, per tile": {
            "cpu_s": p.cpu_s_per_tile,
            "wall_s": p.wall_s_per_tile,
            "peak_mb": p.worker_peak_mb,
        }
        for p in points
    }
    return {
        "title": "scale: files to mosaic",
        "computer": computer(),
        "costs": costs,
        "ratios": dict.fromkeys(costs, 1.0),
        "accuracy": {f"RMSE px, {p.tiles} tiles": p.rmse_px for p in points},
        "wanted": {},
        "passed": kept,
    }


def main() -> int:
    given = arguments(__doc__.splitlines()[0], repeats=1)
    folder = make_dataset(BENCH / "data", "scale")
    sides = (5, 10) if given.quick else (5, 10, 20, 40)
    print(f"\nscale: files to mosaic, {WORKERS} workers  [{computer()}]")
    print("  tiles     Mpix  CPU s/tile  wall s/tile  worker MB  client MB  RMSE px")
    points = []
    for side in sides:
        points.append(measure(folder, side))
        show(points[-1])
    return finish([figures(points)], path=given.json)


if __name__ == "__main__":
    sys.exit(main())
