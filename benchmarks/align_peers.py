"""One montage aligned by one library, in a process of its own; prints what it cost.

    python align_peers.py WHO MONTAGE_FOLDER PLACES.json

Files in, places out. The first run (imports, compilation, caches) does not count where
a second one is affordable. Everyone may search at least 100 px around the stage.
"""

import csv
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Nominal = list[tuple[str, float, float]]  # path, y, x of the corner by the stage
Result = dict[str, Any]
SIDE = 2048


def ours() -> Callable[[Nominal], Result]:
    from em_platform.config.stitching import MatchSettings, SolveSettings
    from em_platform.model import Montage, Size, Tile
    from em_platform.stitching.match import match_pairs
    from em_platform.stitching.solve import solve_montage
    from em_platform.stitching.tile_images import TileImages

    def align(nominal: Nominal) -> Result:
        size = Size(height_px=SIDE, width_px=SIDE)
        tiles = tuple(
            Tile(tile_id=path, uri=path, row=0, column=n, y_px=y, x_px=x, size=size)
            for n, (path, y, x) in enumerate(nominal)
        )
        montage = Montage(
            acquisition_id="bench",
            montage_id="bench",
            tiles=tiles,
            tile_size=size,
            expected_tiles=len(tiles),
        )
        matches = match_pairs(montage, TileImages(), settings=MatchSettings())
        fit = solve_montage(montage, matches, settings=SolveSettings())
        bad = [
            f"{Path(match.a).name} - {Path(match.b).name}: {match.reason}"
            for match in fit.matches
            if not match.kept
        ]
        return {"places": [(p.y_px, p.x_px) for p in fit.placements], "bad": bad}

    return align


def feabas() -> Callable[[Nominal], Result]:
    """The settings are those of its own default_stitching_configs.yaml."""
    from feabas import constant
    from feabas.stitcher import Stitcher

    matcher = {
        "spacings": None,
        "conf_thresh": 0.33,
        "residue_mode": "huber",
        "residue_len": 2,
        "pad": True,
        "sigma": 2.5,
        "coarse_downsample": 0.5,
        "fine_downsample": 1.0,
        "compute_photometric": False,
    }

    def align(nominal: Nominal) -> Result:
        boxes = np.array([(x, y, x + SIDE, y + SIDE) for _, y, x in nominal])
        stitcher = Stitcher([path for path, _, _ in nominal], boxes, resolution=4.0)
        stitcher.dispatch_matchers(
            num_workers=1,
            min_overlap_width=25,
            margin=100,
            loader_config={"cache_size": 150},
            matcher_config=matcher,
        )
        stitcher.filter_match_by_weight(0.1)
        stitcher.set_groupings(np.zeros(stitcher.num_tiles, np.int32))
        stitcher.initialize_meshes([100, 300], soft_top=0.2, soft_top_width=0.0)
        stitcher.optimize_translation(
            target_gear=constant.MESH_GEAR_FIXED, tol=1e-7, residue_threshold=0.5
        )
        gears = (constant.MESH_GEAR_INITIAL, constant.MESH_GEAR_FIXED)
        places = []
        for mesh in stitcher.meshes:
            before, after = (mesh.vertices_w_offset(gear=gear) for gear in gears)
            local = before - before.min(axis=0)
            x, y = (after - local).mean(axis=0)
            places.append((float(y), float(x)))
        return {"places": places, "bad": []}

    return align


def ashlar(max_error: float | None = None) -> Callable[[Nominal], Result]:
    import tifffile
    from ashlar import reg

    class TilesMetadata(reg.Metadata):
        def __init__(self, nominal: Nominal) -> None:
            self._positions = np.array([(y, x) for _, y, x in nominal])
            self._size = np.array([SIDE, SIDE])

        _num_images = property(lambda self: len(self._positions))
        num_channels = property(lambda self: 1)
        pixel_size = property(lambda self: 1.0)
        pixel_dtype = property(lambda self: np.dtype(np.uint8))

    class TilesReader(reg.Reader):
        def __init__(self, nominal: Nominal) -> None:
            self.metadata = TilesMetadata(nominal)
            self._paths = [path for path, _, _ in nominal]

        def read(self, series: int, c: int) -> np.ndarray:
            return tifffile.imread(self._paths[series])

    def align(nominal: Nominal) -> Result:
        aligner = reg.EdgeAligner(
            TilesReader(nominal),
            max_shift=100,
            filter_sigma=1.0,
            max_error=max_error,
            do_make_thumbnail=False,
        )
        aligner.run()
        return {"places": aligner.positions.tolist(), "bad": []}

    return align


PEERS: dict[str, tuple[Callable[[], Callable[[Nominal], Result]], int]] = {
    "ours": (ours, 1),
    "feabas": (feabas, 1),
    "ashlar": (ashlar, 0),
    "ashlar-matching": (lambda: ashlar(np.inf), 0),
}
"""Name -> how to make it, and how many runs do not count."""


def nominal_of(folder: Path) -> Nominal:
    with (folder / "tiles.csv").open() as table:
        rows = list(csv.DictReader(table))
    return [
        (str(folder / row["file"]), float(row["y_px"]), float(row["x_px"]))
        for row in rows
        if (folder / row["file"]).is_file()
    ]


def cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def main() -> None:
    who, folder, target = sys.argv[1:]
    make, warm_up = PEERS[who]
    align, nominal = make(), nominal_of(Path(folder))
    for _ in range(warm_up):
        align(nominal)
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = align(nominal)
    cost = {
        "cpu_s": cpu_seconds() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    names = [Path(path).name for path, _, _ in nominal]
    Path(target).write_text(json.dumps({"names": names, **result}))
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
