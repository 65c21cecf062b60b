"""Copies of one particle at given places, turned as wanted: ETSimulations' `basic`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial.transform import Rotation

from em_platform.errors import ConfigError
from em_platform.model import Json, Model
from em_platform.simulation.tilt_series.assemblers.assembler import (
    DensityMap,
    Sample,
    index_of,
    options_of,
)
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.plan import Plan, generator

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_GAUSS = re.compile(rf"gauss\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)")
_RECORDED = 1  # the second stream of a sample: what is noted must not move what is

Triple = tuple[float, float, float]


class Gauss(Model):
    """A normal distribution."""

    mu: float = 0
    sigma: float = Field(0, ge=0)

    def __str__(self) -> str:
        return f"gauss({self.mu:g}, {self.sigma:g})"


class Options(Model):
    """Where the particles are, how they are turned, and how well that is recorded."""

    particle: str = ""
    """Its name in the plan; empty: the first."""
    positions_nm: tuple[Triple, ...] = Field(min_length=1)
    """`(x, y, z)` from the sample's middle."""
    orientations: str | tuple[Triple, ...] = "none"
    """`none`, `gauss(mu, sigma)` in degrees for each of the ZXZ angles, or a list of
    such angles, of which each particle takes one."""
    position_error_nm: Gauss | None = None
    """How far the recorded places are from the true ones, in each axis."""
    orientation_error_deg: Gauss | None = None
    """How far the recorded angles are from the true ones, in each angle."""
    use_common_model: bool = True
    """Whether all particles share one map, or each has one of its own."""


class Basic:
    """Particles where the plan puts them. Positions and angles are exact."""

    def __init__(
        self, plan: Plan, maps: tuple[DensityMap, ...], temp_dir: Path
    ) -> None:
        self._plan = plan
        self._options = options_of(plan, Options)
        self._map = maps[index_of(maps, self._options.particle, kind="basic")]
        self._pool = _orientations(self._options.orientations)

    def set_up_tiltseries(self, stack: int) -> Sample:
        """A particle at each place; `facts` has what a picker would have recorded."""
        options = self._options
        count = len(options.positions_nm)
        angles = self._angles(count, generator(self._plan, "sample", stack))
        particles = tuple(
            Particle(
                template=0 if options.use_common_model else number,
                position_nm=place,
                rotation=rotation_of(angles[number].tolist()),
            )
            for number, place in enumerate(options.positions_nm)
        )
        maps = (self._map,) if options.use_common_model else self._own_maps(count)
        rng = generator(self._plan, "sample", stack, _RECORDED)
        return Sample(
            maps=maps,
            particles=particles,
            facts=recorded(
                np.asarray(options.positions_nm),
                angles,
                position_error_nm=options.position_error_nm,
                orientation_error_deg=options.orientation_error_deg,
                rng=rng,
            ),
        )

    def reset_temp_dir(self) -> None:
        """Nothing is kept on disk."""

    def close(self) -> None:
        """Nothing was started."""

    def _angles(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        if isinstance(self._pool, Gauss):
            return rng.normal(self._pool.mu, self._pool.sigma, (count, 3))
        return self._pool[rng.integers(len(self._pool), size=count)]

    def _own_maps(self, count: int) -> tuple[DensityMap, ...]:
        return tuple(
            DensityMap(
                name=f"{self._map.name}-{number + 1}",
                potential_v=self._map.potential_v,
                voxel_nm=self._map.voxel_nm,
            )
            for number in range(count)
        )


def rotation_of(zxz_deg: Sequence[float]) -> NDArray[np.float64]:
    """`(3, 3)` from the particle's axes to the sample's: about z, then x, then z.

    The axes stay where they are, as in the coordinate files of TEM-simulator.
    """
    return Rotation.from_euler("zxz", zxz_deg, degrees=True).as_matrix()


class Recorded(TypedDict):
    """Notes on particles by ETSimulations' names; nm, and ZXZ angles in degrees."""

    positions: list[list[float]]
    orientations: list[list[float]]
    custom_data: dict[str, Json]


def recorded(
    positions_nm: NDArray[np.float64],
    angles_deg: NDArray[np.float64],
    *,
    position_error_nm: Gauss | None,
    orientation_error_deg: Gauss | None,
    rng: np.random.Generator,
) -> Recorded:
    """What is noted of the particles beside their truth.

    Positions are nm, angles ZXZ in degrees. The errors fall on the notes only: what is
    imaged is the truth.
    """
    noted, turned = positions_nm, angles_deg
    custom: dict[str, Json] = {
        "true_coordinates": positions_nm.tolist(),
        "true_orientations": angles_deg.tolist(),
    }
    if position_error_nm is not None:
        error = position_error_nm
        noted = positions_nm + rng.normal(error.mu, error.sigma, positions_nm.shape)
        custom["coord_error_distribution"] = str(error)
    if orientation_error_deg is not None:
        error = orientation_error_deg
        turned = angles_deg + rng.normal(error.mu, error.sigma, angles_deg.shape)
        custom["orientations_error_distribution"] = str(error)
    return {
        "positions": noted.tolist(),
        "orientations": turned.tolist(),
        "custom_data": custom,
    }


def _orientations(source: str | Sequence[Triple]) -> Gauss | NDArray[np.float64]:
    """A distribution, or the angles `(n, 3)` from which each particle takes one."""
    if source == "none" or not source:
        return np.zeros((1, 3))
    if not isinstance(source, str):
        return np.asarray(source, np.float64)
    found = _GAUSS.fullmatch(source.strip())
    if not found or float(found[2]) < 0:
        raise ConfigError(
            f"assembler basic: found the orientations {source}, `none`, `gauss(mu, "
            "sigma)` or a list of three angles each was expected; correct them"
        )
    return Gauss(mu=float(found[1]), sigma=float(found[2]))
