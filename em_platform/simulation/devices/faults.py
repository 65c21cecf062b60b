"""What goes wrong with which tile: decided by the seed, the same in every session."""

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from em_platform.config import SimulationSettings

Fault = Literal["missing", "blurred", "blank", "jumped"]
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
    turn, way = rng.normal(), rng.uniform(0, 2 * math.pi)
    jump = settings.jump_px if "jumped" in faults else 0.0
    return TileErrors(
        dy_px=float(dy + jump * math.sin(way)),
        dx_px=float(dx + jump * math.cos(way)),
        turn_rad=float(math.radians(settings.turn_sd_deg) * turn),
        faults=faults,
    )


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
            found[fault] = frozenset(order[: int(text)])
            order = order[int(text) :]
        else:
            found[fault] = frozenset(
                _place(each) for each in text.replace(",", " ").split()
            )
    return found


def _place(text: str) -> tuple[int, int]:
    row, column = text.split(":")
    return int(row), int(column)


def _key(settings: SimulationSettings, montage_id: str) -> tuple[int, int]:
    return settings.seed, zlib.crc32(montage_id.encode())
