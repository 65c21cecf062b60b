"""Round vesicles of a lipid bilayer, with particles on and in their membranes."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from em_platform.errors import ConfigError
from em_platform.model import Model
from em_platform.simulation.tilt_series.assemblers.assembler import (
    DensityMap,
    Sample,
    index_of,
    options_of,
)
from em_platform.simulation.tilt_series.assemblers.place import (
    TRIES,
    Point,
    Space,
    directions,
    pointing,
    scattered,
)
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.plan import Count, Plan, generator

# A bilayer in ice: the head groups lie 3.8 nm apart and scatter more than water, the
# chains between them about as ice does (profile of DOPC; Wang, Bose & Sigworth 2006).
_LEAFLET_NM, _LEAFLET_SD_NM = 1.9, 0.5
_REACH_NM = _LEAFLET_NM + 3 * _LEAFLET_SD_NM

_MOST_VOXELS = 160  # of a side: a larger vesicle has larger voxels, not more of them


class Options(Model):
    """How many vesicles, how large, and what sits on and in each."""

    vesicles: int = Field(1, ge=1, le=1000)
    radius_nm: tuple[float, float] = (20.0, 40.0)
    """Least and largest, of the middle of the membrane."""
    membrane_v: float = Field(2.0, gt=0, le=1e5)
    """Potential of the head groups above that of ice."""
    on: dict[str, Count] = Field(default_factory=dict)
    """Particles in each membrane by name; their z axis points outward."""
    height_nm: float = 0
    """Of the middle of these particles above the middle of the membrane."""
    inside: dict[str, Count] = Field(default_factory=dict)
    """Particles in the lumen of each vesicle, in any direction."""


class Vesicle:
    """Vesicles apart from each other; no two particles of one overlap."""

    def __init__(
        self, plan: Plan, maps: tuple[DensityMap, ...], temp_dir: Path
    ) -> None:
        self._plan = plan
        self._maps = maps
        self._options = options_of(plan, Options)
        low, high = self._options.radius_nm
        if not 2 * _REACH_NM < low <= high:
            raise ConfigError(
                f"assembler vesicle: found radius_nm {low:g} to {high:g}, least and "
                f"largest above {2 * _REACH_NM:g} were expected; correct them"
            )
        self._on = self._kinds(self._options.on)
        self._inside = self._kinds(self._options.inside)

    def set_up_tiltseries(self, stack: int) -> Sample:
        """Vesicles all over the ice, each with a map of its own size."""
        rng = generator(self._plan, "sample", stack)
        radii = rng.uniform(*self._options.radius_nm, self._options.vesicles)
        reach = max(
            [_REACH_NM]
            + [self._options.height_nm + self._maps[k].radius_nm for k in self._on]
        )
        depth = self._plan.ice.thickness_nm - 2 * float(radii.max() + reach)
        if depth < 0:
            raise ConfigError(
                f"assembler vesicle: found {2 * (radii.max() + reach):.0f} nm wide "
                f"vesicles in ice of {self._plan.ice.thickness_nm:g} nm, thicker ice "
                "was expected; raise ice.thickness_nm or lower radius_nm"
            )
        camera, pixel_nm = self._plan.camera, self._plan.pixel_nm
        box = camera.width_px * pixel_nm, camera.height_px * pixel_nm, depth
        middles = scattered([r + reach for r in radii], box_nm=box, rng=rng)
        maps, particles = list(self._maps), []
        vesicles = list(zip(middles, radii.tolist(), strict=True))
        for number, (middle, radius) in enumerate(vesicles, 1):
            maps.append(self._shell(f"vesicle-{number}", radius))
            particles.append(_particle(len(maps) - 1, middle, np.eye(3)))
            particles += self._membrane_particles(middle, radius, rng)
            particles += self._lumen_particles(middle, radius, rng)
        facts = {
            "vesicles": [
                {"middle_nm": middle.tolist(), "radius_nm": radius}
                for middle, radius in vesicles
            ]
        }
        return Sample(maps=tuple(maps), particles=tuple(particles), facts=facts)

    def reset_temp_dir(self) -> None:
        """Nothing is kept on disk."""

    def close(self) -> None:
        """Nothing was started."""

    def _kinds(self, counts: dict[str, int]) -> list[int]:
        return [
            index_of(self._maps, name, kind="vesicle")
            for name, count in counts.items()
            for _ in range(count)
        ]

    def _shell(self, name: str, radius_nm: float) -> DensityMap:
        reach = radius_nm + _REACH_NM
        voxel_nm = max(self._plan.pixel_nm, 2 * reach / _MOST_VOXELS)
        half = int(np.ceil(reach / voxel_nm)) + 1
        place = np.arange(-half, half + 1, dtype=np.float32) * np.float32(voxel_nm)
        square = place**2
        away = np.sqrt(square[:, None, None] + square[:, None] + square) - radius_nm
        profile = np.exp(-(((np.abs(away) - _LEAFLET_NM) / _LEAFLET_SD_NM) ** 2) / 2)
        profile[np.abs(away) > _REACH_NM] = 0
        potential = (self._options.membrane_v * profile).astype(np.float32)
        return DensityMap(name=name, potential_v=potential, voxel_nm=voxel_nm)

    def _membrane_particles(
        self, middle: Point, radius_nm: float, rng: np.random.Generator
    ) -> list[Particle]:
        placed: list[Particle] = []
        sizes = [self._maps[kind].radius_nm for kind in self._on]
        space = Space(max(sizes, default=1.0))
        for kind, size in zip(self._on, sizes, strict=True):
            for _ in range(TRIES):
                outward = rng.standard_normal(3)
                outward /= np.linalg.norm(outward)
                place = middle + (radius_nm + self._options.height_nm) * outward
                if space.is_free(place, size):
                    break
            else:
                raise ConfigError(
                    f"assembler vesicle: found room for {len(placed)} of "
                    f"{len(self._on)} particles on a membrane of radius "
                    f"{radius_nm:.0f} nm; ask for fewer in `on`, or for larger vesicles"
                )
            space.add(place, size)
            turn = pointing(outward, rng.uniform(0, 2 * np.pi))
            placed.append(_particle(kind, place, turn))
        return placed

    def _lumen_particles(
        self, middle: Point, radius_nm: float, rng: np.random.Generator
    ) -> list[Particle]:
        if not self._inside:
            return []
        sizes = [self._maps[kind].radius_nm for kind in self._inside]
        room = radius_nm - _REACH_NM - max(sizes)
        # What is on the membrane reaches into the lumen by this much.
        deepest = [self._maps[kind].radius_nm for kind in self._on]
        if deepest:
            inward = max(deepest) - self._options.height_nm
            room = min(room, radius_nm - inward - max(sizes))
        if (room <= max(sizes) and len(sizes) > 1) or room <= 0:
            raise ConfigError(
                f"assembler vesicle: found no room in a vesicle of radius "
                f"{radius_nm:.0f} nm for particles of radius {max(sizes):.0f} nm; "
                "raise radius_nm or leave `inside` empty"
            )
        # The largest cube in the free ball keeps clear of the membrane everywhere.
        side = 2 * room / np.sqrt(3)
        places = middle + scattered(sizes, box_nm=(side, side, side), rng=rng)
        turns = directions(len(sizes), rng)
        return [
            _particle(kind, place, turn)
            for kind, place, turn in zip(self._inside, places, turns, strict=True)
        ]


def _particle(kind: int, place: Point, turn: NDArray[np.float64]) -> Particle:
    x, y, z = place.tolist()
    return Particle(template=kind, position_nm=(x, y, z), rotation=turn)
