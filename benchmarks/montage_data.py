"""Montages with known truth for the benchmarks: A, B, C and a cheap large one.

    python benchmarks/montage_data.py FOLDER A B C scale [--tile-px 2048]

- A: stage jitter, vignette, fixed pattern, dust, beam drift, shot noise.
- B: A, with a radial lens (2.6 px at the middle of an edge, 7.2 px in a corner) and
  turned tiles (sd 0.03 degrees); `B/lens` is a 3x3 set of the same lens, 60 % overlap.
- C: A, with a blank vessel over one overlap, one tile missing, one 60 px off its place.
- scale: a periodic specimen: few distinct files, hard-linked; neighbours match at their
  true places like any others.

Each folder holds uncompressed TIFF tiles, `tiles.csv` (file,x_px,y_px; nominal corner)
and `truth.json`: per file a placement (`y_px, x_px, yy, yx, xy, xx` as in
em_platform.model.TilePlacement: world = (y_px, x_px) + A @ (p + field(p))), the lens
(em_platform.model.LensModel), gain and what is wrong with which tile.
"""

import argparse
import csv
import json
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from em_platform.imaging.exposure import beam_level, camera_gain, expose
from em_platform.model import LensModel, Size, TilePlacement
from em_platform.simulation.devices.optics import place, radial_lens, view
from em_platform.simulation.specimen import EMPTY_GREY, Specimen, Tissue
from em_platform.storage.atomic import whole_folder

VERSION = 1  # raise it when the same parameters give other pixels
LENS_PX = 2.6
TURN_SD_DEG = 0.03
JUMP_PX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides the pixels of one dataset."""

    name: str
    rows: int
    columns: int
    tile_px: int
    overlap: float
    jitter_px: float
    seed: int
    electrons: float
    degraded: bool = True
    distinct: int = 0
    version: int = VERSION

    @property
    def step_px(self) -> int:
        """From one nominal corner to the next."""
        return round(self.tile_px * (1 - self.overlap))

    @property
    def size(self) -> Size:
        """Of a tile."""
        return Size(height_px=self.tile_px, width_px=self.tile_px)


def make_dataset(
    folder: str | Path,
    name: str,
    *,
    tiles: tuple[int, int] | None = None,
    tile_px: int = 2048,
    overlap: float = 0.12,
    jitter_px: float = 25.0,
    seed: int = 1,
    electrons: float = 400.0,
    degraded: bool = True,
    distinct: int = 2,
) -> Path:
    """The folder `<folder>/<name>` with `tiles.csv` and `truth.json`, made if absent.

    `tiles` is (rows, columns), by default 5x5, and 40x40 for `scale`, whose tiles
    repeat after `distinct` rows and columns. Without `degraded` tiles have no vignette,
    pattern, dust or drift; `electrons=0` leaves out the shot noise.
    """
    rows, columns = tiles or ((40, 40) if name == "scale" else (5, 5))
    plan = Plan(
        name=name,
        rows=rows,
        columns=columns,
        tile_px=tile_px,
        overlap=overlap,
        jitter_px=jitter_px,
        seed=seed,
        electrons=electrons,
        degraded=degraded,
        distinct=distinct if name == "scale" else 0,
    )
    target = Path(folder) / name
    stamp = target / "parameters.json"
    wanted = json.dumps(asdict(plan), indent=1)
    if stamp.is_file() and stamp.read_text() == wanted:
        return target
    with whole_folder(target) as beside:
        _write(beside, plan)
        if name == "B":
            (beside / "lens").mkdir()
            _write(beside / "lens", _lens_plan(plan))
        (beside / "parameters.json").write_text(wanted)
    return target


def _lens_plan(plan: Plan) -> Plan:
    return Plan(
        name="B-lens",
        rows=3,
        columns=3,
        tile_px=plan.tile_px,
        overlap=0.6,
        jitter_px=plan.jitter_px,
        seed=plan.seed,
        electrons=plan.electrons,
        degraded=plan.degraded,
    )


class _Vessel:
    """Tissue with a blank lumen, so that nothing can be matched inside it."""

    def __init__(
        self,
        tissue: Specimen,
        *,
        middle: tuple[float, float],
        half: tuple[float, float],
    ) -> None:
        self._tissue, self._middle, self._half = tissue, middle, half

    def window(
        self, y0: int, x0: int, *, height: int, width: int, section: int
    ) -> NDArray[np.float32]:
        tissue = self._tissue.window(
            y0, x0, height=height, width=width, section=section
        )
        v = (np.arange(height) + y0 - self._middle[0])[:, None] / self._half[0]
        u = (np.arange(width) + x0 - self._middle[1])[None, :] / self._half[1]
        inside = np.clip((1.0 - (v**8 + u**8)) * 8, 0, 1).astype(np.float32)
        return tissue + inside * (np.float32(EMPTY_GREY) - tissue)


class _Periodic:
    """Tissue that repeats after `period_px`; its seam is blended over 256 pixels."""

    def __init__(self, tissue: Specimen, *, period_px: int) -> None:
        blend = min(256, period_px // 4)
        side = period_px + blend
        canvas = tissue.window(0, 0, height=side, width=side, section=0)
        fade = np.linspace(0, 1, blend, dtype=np.float32)
        canvas[:blend] += (1 - fade)[:, None] * (canvas[period_px:] - canvas[:blend])
        canvas = canvas[:period_px]
        canvas[:, :blend] += (1 - fade) * (canvas[:, period_px:] - canvas[:, :blend])
        self._canvas = np.ascontiguousarray(canvas[:, :period_px])

    def window(
        self, y0: int, x0: int, *, height: int, width: int, section: int
    ) -> NDArray[np.float32]:
        period = len(self._canvas)
        rows = np.arange(y0, y0 + height) % period
        columns = np.arange(x0, x0 + width) % period
        return self._canvas[np.ix_(rows, columns)]


def _specimen(plan: Plan) -> Specimen:
    tissue = Tissue(plan.seed)
    if plan.name == "scale":
        return _Periodic(tissue, period_px=plan.distinct * plan.step_px)
    if plan.name != "C":
        return tissue
    strip = plan.tile_px - plan.step_px
    return _Vessel(
        tissue,
        middle=(plan.step_px + plan.tile_px / 2, 2 * plan.step_px + strip / 2),
        half=(plan.tile_px / 2 + 80, strip / 2 + plan.jitter_px + 80),
    )


def _write(folder: Path, plan: Plan) -> None:
    specimen = _specimen(plan)
    lens = (
        radial_lens(plan.size, edge_px=LENS_PX) if plan.name.startswith("B") else None
    )
    gain = camera_gain(plan.tile_px, plan.tile_px, seed=plan.seed)
    placements = _placements(plan)
    wrong = _wrong(plan)

    def image(place_of: tuple[int, int]) -> None:
        row, column = place_of
        placement = placements[place_of]
        light = view(specimen, placement, size=plan.size, lens=lens)
        number = row * plan.columns + column
        frame = expose(
            light,
            noise_key=[plan.seed, row, column, len(plan.name)],
            gain=gain if plan.degraded else None,
            beam=beam_level(number, seed=plan.seed) if plan.degraded else 1.0,
            electrons=plan.electrons,
        )
        if _name(row, column) != wrong.get("missing"):
            tifffile.imwrite(folder / _name(row, column), frame, metadata=None)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(image, _distinct(plan)))
    _link_copies(folder, plan)
    _write_tables(folder, plan, placements, lens, wrong)
    if plan.degraded:
        np.save(folder / "gain.npy", gain)


def _distinct(plan: Plan) -> Iterable[tuple[int, int]]:
    rows, columns = plan.rows, plan.columns
    if plan.distinct:
        rows, columns = min(rows, plan.distinct), min(columns, plan.distinct)
    return [(row, column) for row in range(rows) for column in range(columns)]


def _placements(plan: Plan) -> dict[tuple[int, int], TilePlacement]:
    """True places; a tile that repeats has the jitter of its original."""
    rng = np.random.default_rng([plan.seed, sum(plan.name.encode())])
    shape = (plan.rows, plan.columns)
    jitter = rng.uniform(-plan.jitter_px, plan.jitter_px, (*shape, 2))
    turns = np.deg2rad(rng.normal(0.0, TURN_SD_DEG, shape))
    jumped = _wrong(plan).get("jumped")
    placements = {}
    for row, column in np.ndindex(shape):
        source = (row, column)
        if plan.distinct:
            source = (row % plan.distinct, column % plan.distinct)
        name = _name(row, column)
        off = JUMP_PX / math.sqrt(2) if name == jumped else 0.0
        placements[row, column] = place(
            name,
            y_px=row * plan.step_px + float(jitter[*source, 0]) + off,
            x_px=column * plan.step_px + float(jitter[*source, 1]) - off,
            size=plan.size,
            rotation_rad=float(turns[source]) if plan.name.startswith("B") else 0.0,
        )
    return placements


def _wrong(plan: Plan) -> dict[str, Any]:
    if plan.name != "C":
        return {}
    return {
        "blank_overlap": [_name(1, 1), _name(1, 2)],
        "missing": _name(plan.rows - 2, plan.columns - 2),
        "jumped": _name(plan.rows - 2, 1),
    }


def _name(row: int, column: int) -> str:
    return f"tile_r{row:03d}_c{column:03d}.tif"


def _link_copies(folder: Path, plan: Plan) -> None:
    if not plan.distinct:
        return
    for row, column in np.ndindex(plan.rows, plan.columns):
        source = _name(row % plan.distinct, column % plan.distinct)
        if _name(row, column) != source:
            os.link(folder / source, folder / _name(row, column))


def _write_tables(
    folder: Path,
    plan: Plan,
    placements: dict[tuple[int, int], TilePlacement],
    lens: LensModel | None,
    wrong: dict[str, Any],
) -> None:
    with (folder / "tiles.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "x_px", "y_px"])
        for row, column in placements:
            name = _name(row, column)
            table.writerow([name, column * plan.step_px, row * plan.step_px])
    wanted = {"y_px", "x_px", "yy", "yx", "xy", "xx"}
    truth = {
        "tiles": [
            {"file": placement.tile_id, "row": row, "column": column}
            | placement.model_dump(include=wanted)
            for (row, column), placement in placements.items()
        ],
        "lens": lens.model_dump(mode="json") if lens else None,
        "gain": "gain.npy" if plan.degraded else None,
        "wrong": wrong,
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", choices=["A", "B", "C", "scale"])
    parser.add_argument("--tile-px", type=int, default=2048)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--columns", type=int)
    chosen = parser.parse_args()
    tiles = (chosen.rows, chosen.columns or chosen.rows) if chosen.rows else None
    for name in chosen.names:
        made = make_dataset(chosen.folder, name, tile_px=chosen.tile_px, tiles=tiles)
        print(made / "tiles.csv")


if __name__ == "__main__":
    main()
