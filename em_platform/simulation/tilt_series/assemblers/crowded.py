"""Particles of several kinds at random places, as dense as cytoplasm if wanted."""

from pathlib import Path

from pydantic import Field

from em_platform.errors import ConfigError
from em_platform.model import Model
from em_platform.simulation.tilt_series.assemblers.assembler import (
    DensityMap,
    Sample,
    index_of,
    options_of,
)
from em_platform.simulation.tilt_series.assemblers.place import directions, scattered
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.plan import Count, Plan, generator


class Options(Model):
    """How many of each kind, by the particle's name."""

    counts: dict[str, Count] = Field(default_factory=dict)
    """Without any, a plan has no particles: ice alone."""


class Crowded:
    """Random places without overlaps, random directions."""

    def __init__(
        self, plan: Plan, maps: tuple[DensityMap, ...], temp_dir: Path
    ) -> None:
        self._plan = plan
        self._maps = maps
        self._options = options_of(plan, Options)
        counts = self._options.counts
        if maps and not counts:
            raise ConfigError(
                "assembler crowded: found no `counts` in assembly.options, how many "
                f"there are of {maps[0].name} was expected; add it"
            )
        self._kinds = sorted(
            index_of(maps, name, kind="crowded")
            for name, count in counts.items()
            for _ in range(count)
        )

    def set_up_tiltseries(self, stack: int) -> Sample:
        """Particles all over the field of view and the ice."""
        rng = generator(self._plan, "sample", stack)
        kinds = self._kinds
        radii = [self._maps[index].radius_nm for index in kinds]
        camera, pixel_nm = self._plan.camera, self._plan.pixel_nm
        depth = self._plan.ice.thickness_nm - 2 * max(radii, default=0)
        box = camera.width_px * pixel_nm, camera.height_px * pixel_nm, depth
        places = scattered(radii, box_nm=box, rng=rng)
        turns = directions(len(kinds), rng)
        particles = tuple(
            Particle(template=kind, position_nm=(x, y, z), rotation=turn)
            for kind, (x, y, z), turn in zip(kinds, places.tolist(), turns, strict=True)
        )
        return Sample(maps=self._maps, particles=particles, facts={})

    def reset_temp_dir(self) -> None:
        """Nothing is kept on disk."""

    def close(self) -> None:
        """Nothing was started."""
