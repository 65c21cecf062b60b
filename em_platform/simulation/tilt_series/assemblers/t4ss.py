"""Secretion systems in a membrane: a barrel with rods round it, no two the same.

The arrangement is that of ETSimulations' `t4ss`. Each particle is put together from its
maps by numpy, or by Chimera or ChimeraX if the plan says so.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial.transform import Rotation

from em_platform.config import load_settings
from em_platform.errors import ConfigError
from em_platform.model import Model
from em_platform.simulation.tilt_series.assemblers.assembler import (
    DensityMap,
    Sample,
    index_of,
    options_of,
)
from em_platform.simulation.tilt_series.assemblers.basic import (
    Gauss,
    Recorded,
    recorded,
    rotation_of,
)
from em_platform.simulation.tilt_series.assemblers.chimera import (
    ChimeraPool,
    composed_by_chimera,
)
from em_platform.simulation.tilt_series.assemblers.parts import (
    Move,
    Part,
    Turn,
    composed,
)
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.plan import Plan, generator

_RECORDED = 1  # the second stream of a sample, as in `basic`

Triple = tuple[float, float, float]


class Options(Model):
    """The three maps, their arrangement, and the spread of it."""

    membrane: str = "membrane"
    barrel: str = "barrel"
    rod: str = "rod"
    num_rods: int = Field(ge=1, le=90)
    rod_distance_nm: float = Field(ge=0)
    """Of each rod's middle from the barrel's axis."""
    depth_nm: float = 4.3
    """Of barrel and rods below the membrane."""
    membrane_factor: float = 1.5
    """Of the membrane's potential, so that it stands out."""
    wobble_deg: float = Field(5, ge=0)
    """Standard deviation of the angles of barrel and rods about x and about y."""
    shift_nm: float = Field(7.5, ge=0)
    """Largest shift of barrel and rods along the membrane, in x and in y."""
    positions_nm: tuple[Triple, ...] = Field(min_length=1)
    orientations_deg: tuple[Triple, ...] = ((0.0, 0.0, 0.0),)
    """ZXZ angles from the reference to the particle; each particle takes one."""
    composed_by: Literal["numpy", "chimera"] = "numpy"
    """What puts each particle together; `chimera` needs tilt_series.chimera."""
    position_error_nm: Gauss | None = None
    orientation_error_deg: Gauss | None = None


class T4ss:
    """One map for each particle, and where each of them is."""

    def __init__(
        self, plan: Plan, maps: tuple[DensityMap, ...], temp_dir: Path
    ) -> None:
        self._plan = plan
        self._options = options_of(plan, Options)
        names = self._options.membrane, self._options.barrel, self._options.rod
        self._membrane, self._barrel, self._rod = (
            maps[index_of(maps, name, kind="t4ss")] for name in names
        )
        self._temp_dir = temp_dir
        self._pool: ChimeraPool | None = None
        if self._options.composed_by == "chimera":
            # The plan says what, the settings where: plans are the same everywhere.
            self._pool = ChimeraPool(load_settings().tilt_series.chimera)

    def set_up_tiltseries(self, stack: int) -> Sample:
        """A new set of particles; `facts` has shifts and angles of each."""
        options = self._options
        rng = generator(self._plan, "sample", stack)
        pool = np.asarray(options.orientations_deg)
        angles = pool[rng.integers(len(pool), size=len(options.positions_nm))]
        wholes, shifts, wobbles = [], [], []
        for _ in options.positions_nm:
            shift = rng.uniform(-options.shift_nm, options.shift_nm, 2)
            wobble = rng.normal(0, options.wobble_deg, (1 + options.num_rods, 2))
            wholes.append(self._parts(shift, wobble))
            shifts.append(shift.tolist())
            wobbles.append(wobble.tolist())
        facts = self._noted(angles, stack)
        facts["custom_data"] |= {
            "shifts_from_membrane_center": shifts,
            "angles_from_membrane_perpendicular": wobbles,
        }
        volumes = self._volumes(wholes)
        return Sample(
            maps=tuple(
                DensityMap(
                    name=f"T4SS{number + 1}",
                    potential_v=volume,
                    voxel_nm=self._membrane.voxel_nm,
                )
                for number, volume in enumerate(volumes)
            ),
            particles=tuple(
                Particle(template=number, position_nm=place, rotation=rotation_of(turn))
                for number, (place, turn) in enumerate(
                    zip(options.positions_nm, angles.tolist(), strict=True)
                )
            ),
            facts=facts,
        )

    def reset_temp_dir(self) -> None:
        """Delete the maps that Chimera read and wrote."""
        for path in self._temp_dir.glob("*.mrc"):
            path.unlink()

    def close(self) -> None:
        """End the programs that were started."""
        if self._pool:
            self._pool.close()

    def _parts(
        self, shift_nm: NDArray[np.float64], wobble_deg: NDArray[np.float64]
    ) -> list[Part]:
        options = self._options
        dx, dy = shift_nm.tolist()
        (about_x, about_y), *rods = wobble_deg.tolist()
        down = Move(by_nm=(dx, dy, -options.depth_nm))
        parts = [
            Part(map=self._membrane, factor=options.membrane_factor),
            Part(
                map=self._barrel,
                steps=(
                    Turn(axis="x", degrees=about_x),
                    Turn(axis="y", degrees=about_y),
                    down,
                ),
            ),
        ]
        for number, (about_x, about_y) in enumerate(rods):
            degrees = 360 * number / options.num_rods
            x = dx + options.rod_distance_nm * float(np.cos(np.deg2rad(degrees)))
            y = dy + options.rod_distance_nm * float(np.sin(np.deg2rad(degrees)))
            steps = (
                Turn(axis="z", degrees=degrees),
                Move(by_nm=(x, y, -options.depth_nm)),
                Turn(axis="x", degrees=about_x, own=True),
                Turn(axis="y", degrees=about_y, own=True),
            )
            parts.append(Part(map=self._rod, steps=steps))
        return parts

    def _volumes(self, wholes: Sequence[Sequence[Part]]) -> list[NDArray[np.float32]]:
        if self._pool is None:
            return [composed(parts) for parts in wholes]
        return composed_by_chimera(wholes, pool=self._pool, folder=self._temp_dir)

    def _noted(self, angles: NDArray[np.float64], stack: int) -> Recorded:
        options = self._options
        facts = recorded(
            np.asarray(options.positions_nm),
            side_views(angles),
            position_error_nm=options.position_error_nm,
            orientation_error_deg=options.orientation_error_deg,
            rng=generator(self._plan, "sample", stack, _RECORDED),
        )
        facts["custom_data"]["true_orientations"] = angles.tolist()
        return facts


def side_views(angles_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """ZXZ angles `(n, 3)` after a quarter turn of the reference about x.

    The maps are seen from the top; ETSimulations records orientations of a reference
    that lies on its side.
    """
    turned = Rotation.from_euler("zxz", angles_deg, degrees=True)
    quarter = Rotation.from_euler("x", 90, degrees=True)
    return (turned * quarter).as_euler("zxz", degrees=True)


def table_orientations(path: Path) -> tuple[Triple, ...]:
    """Angles from the reference to each particle of a Dynamo table, ZXZ in degrees.

    Columns 7 to 9 are tdrot, tilt and narot, from the particle to the reference.

    Raises
    ------
    ConfigError
        There is no such file, or it is no table.
    """
    try:
        table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"assembler t4ss: the Dynamo table {path} cannot be read ({error}); "
            "correct its path"
        ) from error
    if table.shape[1] < 9 or not len(table):
        raise ConfigError(
            f"assembler t4ss: found {table.shape[1]} columns in {path}, a Dynamo table "
            "with angles in columns 7 to 9 was expected; correct its path"
        )
    return tuple((-c, -b, -a) for a, b, c in table[:, 6:9].tolist())
