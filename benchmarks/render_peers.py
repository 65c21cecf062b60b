"""One montage rendered by one library, in a process of its own; prints what it cost.

    python render_peers.py RENDERER MONTAGE_FOLDER TARGET [PREVIEW.npy]

Files in, places known. Ours writes a sharded OME-Zarr with a pyramid; from the peers
only the blended pixels in memory are asked. Everyone renders a tiny montage first, so
that imports and compilation do not count.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tifffile

Places = Sequence[tuple[str, float, float]]  # path, y, x of the tile's first pixel
Render = Callable[[Places, str], np.ndarray | None]


def ours(model: str = "translation") -> Render:
    from em_platform.config import RenderSettings
    from em_platform.formats import open_level
    from em_platform.model import (
        Montage,
        MontageFit,
        Size,
        Tile,
        TilePlacement,
        review_of,
    )
    from em_platform.stitching.compute import keep_freed_memory
    from em_platform.stitching.render import render_mosaic
    from em_platform.stitching.tile_images import TileImages

    keep_freed_memory()  # as the command and the Dask workers do

    def render(places: Places, target: str) -> np.ndarray:
        height, width = tifffile.imread(places[0][0]).shape
        size = Size(height_px=height, width_px=width)
        tiles = tuple(
            Tile(tile_id=path, uri=path, row=0, column=n, y_px=y, x_px=x, size=size)
            for n, (path, y, x) in enumerate(places)
        )
        montage = Montage(
            acquisition_id="bench",
            montage_id="bench",
            tiles=tiles,
            tile_size=size,
            pixel_nm=4.0,
            expected_tiles=len(tiles),
        )
        # A turn too small to see takes the way of affine placements.
        turn = {} if model == "translation" else {"yx": 1e-9}
        placements = tuple(
            TilePlacement(tile_id=path, y_px=y, x_px=x, **turn) for path, y, x in places
        )
        fit = MontageFit(
            acquisition_id="bench", placements=placements, matches=(), residual_px=0.0
        )
        render_mosaic(
            montage,
            fit,
            TileImages(),
            target,
            settings=RenderSettings(),
            review=review_of(()),
        )
        return open_level(target, 0)

    return render


def feabas() -> Render:
    from feabas.stitcher import Mesh_Info, MontageRenderer

    def render(places: Places, target: str) -> np.ndarray:
        height, width = tifffile.imread(places[0][0]).shape
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
        triangles = np.array([[0, 1, 2], [1, 3, 2]])
        meshes = [
            Mesh_Info(corners, np.array([[x, y]]), triangles, corners)
            for _, y, x in places
        ]
        renderer = MontageRenderer(
            [path for path, _, _ in places],
            meshes,
            np.array([[height, width]]),
            resolution=4.0,
            loader_settings={"apply_CLAHE": False, "inverse": False, "cache_size": 16},
        )
        rows, columns = shape_of(places, height, width)
        out = np.zeros((rows, columns), np.uint8)
        for y in range(0, rows, 4096):
            for x in range(0, columns, 4096):
                part = out[y : y + 4096, x : x + 4096]
                box = (x, y, x + part.shape[1], y + part.shape[0])
                found = renderer.crop(box, blend="LINEAR", remap_interp="LINEAR")
                if found is not None:
                    part[:] = found
        return out

    return render


def ashlar() -> Render:
    from ashlar.reg import Mosaic

    def render(places: Places, target: str) -> np.ndarray:
        height, width = tifffile.imread(places[0][0]).shape
        aligner = SimpleNamespace(
            positions=np.array([[y, x] for _, y, x in places]),
            metadata=SimpleNamespace(pixel_dtype=np.dtype(np.uint8), num_channels=1),
            reader=SimpleNamespace(
                read=lambda c, series: tifffile.imread(places[series][0])
            ),
        )
        mosaic = Mosaic(aligner, shape_of(places, height, width))
        return mosaic.assemble_channel(0)

    return render


def multiview() -> Render:
    import dask
    import dask.array as da
    from multiview_stitcher import fusion
    from multiview_stitcher import spatial_image_utils as si_utils

    def render(places: Places, target: str) -> np.ndarray:
        height, width = tifffile.imread(places[0][0]).shape
        read = dask.delayed(tifffile.imread)
        sims = [
            si_utils.get_sim_from_array(
                da.from_delayed(read(path), (height, width), np.uint8),
                dims=["y", "x"],
                scale={"y": 1.0, "x": 1.0},
                translation={"y": y, "x": x},
                transform_key="stage",
            )
            for path, y, x in places
        ]
        rows, columns = shape_of(places, height, width)
        overlap = max(8.0, 0.12 * height)
        fused = fusion.fuse(
            sims,
            transform_key="stage",
            output_spacing={"y": 1.0, "x": 1.0},
            output_origin={"y": 0.0, "x": 0.0},
            output_shape={"y": rows, "x": columns},
            output_chunksize={"y": 4096, "x": 4096},
            blending_widths={"y": overlap, "x": overlap},
        )
        return np.squeeze(np.asarray(fused.data.compute()))

    return render


RENDERERS: dict[str, Callable[[], Render]] = {
    "ours": ours,
    "ours-affine": lambda: ours("affine"),
    "feabas": feabas,
    "ashlar": ashlar,
    "multiview": multiview,
}


def shape_of(places: Places, height: int, width: int) -> tuple[int, int]:
    rows = int(np.floor(max(y for _, y, _ in places) + height - 1)) + 1
    columns = int(np.floor(max(x for _, _, x in places) + width - 1)) + 1
    return rows, columns


def places_of(folder: Path) -> Places:
    tiles = json.loads((folder / "truth.json").read_text())["tiles"]
    y0 = min(tile["y_px"] for tile in tiles)
    x0 = min(tile["x_px"] for tile in tiles)
    return [
        (str(folder / tile["file"]), tile["y_px"] - y0, tile["x_px"] - x0)
        for tile in tiles
    ]


def warm_up(render: Render) -> None:
    with tempfile.TemporaryDirectory() as name:
        rng, places = np.random.default_rng(0), []
        for number, (y, x) in enumerate([(0.0, 0.0), (0.5, 220.4), (220.3, 1.7)]):
            path = Path(name) / f"{number}.tif"
            tifffile.imwrite(path, rng.integers(1, 255, (256, 256), dtype=np.uint8))
            places.append((str(path), y, x))
        render(places, str(Path(name) / "warm.zarr"))


def cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(name)).split()[1]) / 1024


def main() -> None:
    renderer, folder, target, sample = sys.argv[1:]
    render, places = RENDERERS[renderer](), places_of(Path(folder))
    warm_up(render)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is held now
    base, cpu, wall = memory_mb("VmRSS"), cpu_seconds(), time.perf_counter()
    pixels = render(places, target)
    cost = {
        "cpu_s": cpu_seconds() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": memory_mb("VmHWM") - base,
    }
    np.save(sample, np.asarray(pixels[1500:2500, 1500:2500]))
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
