"""Curved filaments: particles in a helix along worm-like chains."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial.transform import Rotation

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
    pointing,
)
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.plan import Plan, generator


class Options(Model):
    """How many filaments of which subunit, how long, how stiff."""

    particle: str = ""
    """The subunit; empty: the first. Its z axis lies along the filament."""
    filaments: int = Field(1, ge=1, le=1000)
    length_nm: float = Field(200, gt=0, le=10_000)
    rise_nm: float = Field(ge=0.1)
    """From one subunit to the next."""
    twist_deg: float = 0
    """From one subunit to the next, about the filament: -166.7 in actin."""
    persistence_nm: float = Field(2000, gt=0)
    """Stiffness of the worm-like chain: 10,000 in actin, 50 in DNA."""


class Filament:
    """Filaments that keep apart from each other and from themselves."""

    def __init__(
        self, plan: Plan, maps: tuple[DensityMap, ...], temp_dir: Path
    ) -> None:
        self._plan = plan
        self._maps = maps
        self._options = options_of(plan, Options)
        self._kind = index_of(maps, self._options.particle, kind="filament")
        self._radius_nm = maps[self._kind].radius_nm
        room = plan.ice.thickness_nm - 2 * self._radius_nm
        if room <= 0:
            raise ConfigError(
                f"assembler filament: found subunits of radius {self._radius_nm:.0f} "
                f"nm in ice of {plan.ice.thickness_nm:g} nm; raise ice.thickness_nm"
            )
        sides = plan.camera.width_px, plan.camera.height_px, room / plan.pixel_nm
        self._half_nm = np.asarray(sides) * plan.pixel_nm / 2

    def set_up_tiltseries(self, stack: int) -> Sample:
        """Filaments through the field of view, along the film as thin ice has them."""
        rng = generator(self._plan, "sample", stack)
        space = Space(self._radius_nm)
        particles: list[Particle] = []
        chains: list[list[list[float]]] = []
        for number in range(self._options.filaments):
            for _ in range(TRIES):
                places, frames = self._chain(rng)
                if self._fits(places, space):
                    break
            else:
                raise ConfigError(
                    f"assembler filament: found room for {number} of "
                    f"{self._options.filaments} filaments; ask for fewer or shorter "
                    "ones, or for thicker ice"
                )
            for place in places:
                space.add(place, self._radius_nm)
            twist = self._options.twist_deg * np.arange(len(places))
            spin = np.deg2rad(rng.uniform(0, 360) + twist)
            about_z = spin[:, None] * [0.0, 0.0, 1.0]
            turns = frames @ Rotation.from_rotvec(about_z).as_matrix()
            particles += [
                Particle(template=self._kind, position_nm=(x, y, z), rotation=turn)
                for (x, y, z), turn in zip(places.tolist(), turns, strict=True)
            ]
            chains.append(places.tolist())
        return Sample(
            maps=self._maps, particles=tuple(particles), facts={"filaments_nm": chains}
        )

    def reset_temp_dir(self) -> None:
        """Nothing is kept on disk."""

    def close(self) -> None:
        """Nothing was started."""

    def _chain(self, rng: np.random.Generator) -> tuple[Point, NDArray[np.float64]]:
        """Places `(n, 3)` of subunits and the frames whose z is the filament's axis."""
        options = self._options
        count = max(1, round(options.length_nm / options.rise_nm))
        # Of a worm-like chain the angle between neighbours has the mean square
        # 2 rise / persistence, shared by two axes (Kratky & Porod 1949).
        bend = np.sqrt(options.rise_nm / options.persistence_nm)
        bends = np.pad(rng.normal(0, bend, (count, 2)), ((0, 0), (0, 1)))
        turns = Rotation.from_rotvec(bends).as_matrix()
        frames = np.empty((count, 3, 3))
        frames[0] = pointing(_along_the_film(rng), 0.0)
        for step in range(1, count):
            frames[step] = frames[step - 1] @ turns[step]
        places = np.cumsum(frames[:, :, 2] * options.rise_nm, axis=0)
        middle = rng.uniform(-self._half_nm, self._half_nm)
        return places - places.mean(axis=0) + middle, frames

    def _fits(self, places: Point, space: Space) -> bool:
        if np.abs(places[:, 2]).max() > self._half_nm[2]:
            return False
        if not all(space.is_free(place, self._radius_nm) for place in places):
            return False
        # Neighbours along the chain touch, and must; it must not come back to itself.
        apart = int(np.ceil(np.pi * self._radius_nm / self._options.rise_nm))
        return all(
            _nearest(places[i], places[i + apart :]) >= 2 * self._radius_nm
            for i in range(len(places) - apart)
        )


def _nearest(place: NDArray[np.float64], others: Point) -> float:
    return float(np.sqrt(((others - place) ** 2).sum(axis=1).min()))


def _along_the_film(rng: np.random.Generator) -> Point:
    azimuth = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
