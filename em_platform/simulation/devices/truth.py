"""The truth of each tile, which a real microscope does not know: place and faults."""

import math
import time
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np

from em_platform.config import SimulationSettings
from em_platform.model.truth import Fault, MontageTruth, TileTruth
from em_platform.storage.atomic import write_bytes

FAULTS: tuple[Fault, ...] = get_args(Fault)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileErrors:
    """How one tile differs from what was asked for."""

    dy_px: float
    dx_px: float
    turn_rad: float
    faults: tuple[Fault, ...]


NO_ERRORS = TileErrors(dy_px=0.0, dx_px=0.0, turn_rad=0.0, faults=())
"""A tile that is as it was asked for."""


def tile_errors(
    settings: SimulationSettings,
    *,
    montage_id: str,
    row: int,
    column: int,
    raster: tuple[int, int],
) -> TileErrors:
    """The errors of one tile of a montage of `raster` (rows, columns)."""
    faults = tuple(
        fault
        for fault, tiles in faulty_tiles(settings, montage_id, raster=raster).items()
        if (row, column) in tiles
    )
    rng = np.random.default_rng([*_key(settings, montage_id), row, column])
    dy, dx = rng.uniform(-settings.jitter_px, settings.jitter_px, 2)
    # drawn whether needed or not: one setting does not move the others' draws
    turn, way = rng.normal(), rng.uniform(0, 2 * math.pi)
    jump = settings.jump_px if "jumped" in faults else 0.0
    return TileErrors(
        dy_px=float(dy + jump * math.sin(way)),
        dx_px=float(dx + jump * math.cos(way)),
        turn_rad=float(math.radians(settings.turn_sd_deg) * turn),
        faults=faults,
    )


# A montage is drawn as a whole, and asked for with every tile.
@lru_cache(maxsize=8)
def faulty_tiles(
    settings: SimulationSettings, montage_id: str, *, raster: tuple[int, int]
) -> dict[Fault, frozenset[tuple[int, int]]]:
    """Fault -> its tiles (row, column): those named, or as many as are asked for."""
    rows, columns = raster
    rng = np.random.default_rng([*_key(settings, montage_id), 0xFA])
    order = [divmod(int(n), columns) for n in rng.permutation(rows * columns)]
    found: dict[Fault, frozenset[tuple[int, int]]] = {}
    for fault in FAULTS:
        text: str = getattr(settings, fault)
        if text.isdigit():
            # each fault takes from what the earlier ones left: no tile has two
            found[fault] = frozenset(order[: int(text)])
            order = order[int(text) :]
        else:
            places = (each.split(":") for each in text.replace(",", " ").split())
            found[fault] = frozenset((int(row), int(column)) for row, column in places)
    return found


def _key(settings: SimulationSettings, montage_id: str) -> tuple[int, int]:
    # Not hash(), which differs from process to process.
    return settings.seed, zlib.crc32(montage_id.encode())


_SMALL = 64  # tiles; up to here the file is written with each tile
_PERIOD_S = 1.0  # the file is written whole, so seldom when it is large


class TruthFile:
    """One acquisition's truth on disk; goes on where an earlier process ended."""

    def __init__(self, path: Path, empty: MontageTruth) -> None:
        self._path = path
        self._truth = empty
        if path.is_file():
            earlier = MontageTruth.model_validate_json(path.read_bytes())
            self._truth = empty.model_copy(update={"tiles": earlier.tiles})
        self._written_s = 0.0
        self._waiting = False

    def add(self, tile: TileTruth) -> None:
        """Note one tile; of a large montage the file follows within a second."""
        self._truth.tiles[tile.tile_id] = tile
        self._waiting = True
        recent = time.monotonic() - self._written_s < _PERIOD_S
        if len(self._truth.tiles) <= _SMALL or not recent:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if self._waiting:
            write_bytes(self._path, self._truth.model_dump_json(indent=1).encode())
            self._written_s, self._waiting = time.monotonic(), False
