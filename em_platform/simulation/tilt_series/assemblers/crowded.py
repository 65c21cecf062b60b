"""Particles of several kinds at random places, as dense as cytoplasm if wanted."""

from pathlib import Path

from pydantic import Field

from em_platform.errors import ConfigError
from em_platform.model import Model
from em_platform.simulation.tilt_series.assemblers.assembler import Map, Sample
from em_platform.simulation.tilt_series.assemblers.place import directions, scattered
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.plan import Plan, generator


class Options(Model):
    """How many of each kind, by the particle's name."""

    counts: dict[str, int] = Field(min_length=1)


class Crowded:
    """Random places without overlaps, random directions."""

    def __init__(self, plan: Plan, maps: tuple[Map, ...], temp_dir: Path) -> None:
        self._plan = plan
        self._maps = maps
        self._options = Options.model_validate(plan.assembly.options)
        names = [each.name for each in maps]
        unknown = sorted(set(self._options.counts) - set(names))
        if unknown:
            raise ConfigError(
                f"assembler crowded: found the particle {unknown[0]} in `counts`, one "
                "of "
                f"{', '.join(names)} was expected; correct its name"
            )

    def set_up_tiltseries(self, stack: int) -> Sample:
        """Particles all over the field of view and the ice."""
        rng = generator(self._plan, "sample", stack)
        kinds = [
            index
            for index, each in enumerate(self._maps)
            for _ in range(self._options.counts.get(each.name, 0))
        ]
        radii = [self._maps[index].radius_nm for index in kinds]
        camera, pixel_nm = self._plan.camera, self._plan.pixel_nm
        depth = max(self._plan.ice.thickness_nm - 2 * max(radii, default=0), 1.0)
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
