"""Particles put together by Chimera: maps to files, batches to the pool, maps back."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.assemblers.chimera.commands import sum_commands
from em_platform.simulation.tilt_series.assemblers.chimera.pool import (
    Batch,
    ChimeraPool,
)
from em_platform.simulation.tilt_series.assemblers.parts import Part, padded, side_of

_A_PER_NM = 10


def composed_by_chimera(
    wholes: Sequence[Sequence[Part]], *, pool: ChimeraPool, folder: Path
) -> list[NDArray[np.float32]]:
    """As `parts.composed` of each, as many at a time as the pool has servers.

    Raises
    ------
    ToolFailed
        As `ChimeraPool.run`.
    """
    batches = []
    for number, parts in enumerate(wholes):
        first = parts[0].map
        side = side_of(parts, voxel_nm=first.voxel_nm)
        files = [folder / f"whole-{number}.mrc"]
        _write(files[0], padded(first.potential_v, side), first.voxel_nm)
        for part in parts[1:]:
            # Many particles share a part: its file is written once.
            file = folder / f"part-{part.map.name}.mrc"
            if not file.exists():
                _write(file, part.map.potential_v, part.map.voxel_nm)
            files.append(file)
        output = folder / f"made-{number}.mrc"
        commands = sum_commands(parts, files, output, flavour=pool.flavour)
        batches.append(Batch(commands=commands, output=output))
    with ThreadPoolExecutor(pool.size) as threads:
        return list(threads.map(pool.run, batches))


def _write(path: Path, potential_v: NDArray[np.float32], voxel_nm: float) -> None:
    with mrcfile.new(path, potential_v) as file:
        file.voxel_size = _A_PER_NM * voxel_nm
        # Voxel n // 2 of each axis is at the origin.
        z, y, x = (-(n // 2) * _A_PER_NM * voxel_nm for n in potential_v.shape)
        file.header.origin.x, file.header.origin.y, file.header.origin.z = x, y, z
