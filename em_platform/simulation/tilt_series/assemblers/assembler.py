"""What an assembler is: it arranges particles into the sample of one tilt series."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from em_platform.errors import ConfigError
from em_platform.model import Model
from em_platform.model.base import first_problem
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.plan import Plan

Options = TypeVar("Options", bound=Model)


@dataclass(frozen=True, kw_only=True)  # no slots: they leave no room for what is kept
class DensityMap:
    """A potential above that of ice, V `(z, y, x)`, by the name of its particle."""

    name: str
    potential_v: NDArray[np.float32]
    voxel_nm: float

    @cached_property
    def radius_nm(self) -> float:
        """Of the sphere round the map's middle that holds all that scatters."""
        strong = np.argwhere(self.potential_v > 0.1 * self.potential_v.max())
        away = strong - np.asarray(self.potential_v.shape) // 2
        return float(np.sqrt((away**2).sum(axis=1).max()) + 0.5) * self.voxel_nm


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What lies in the ice of one tilt series."""

    maps: tuple[DensityMap, ...]
    particles: tuple[Particle, ...]
    facts: Mapping[str, object] = field(default_factory=dict)
    """What only this assembler knows of its sample, for the truth file: plain JSON.

    Of an assembler that stands for one of ETSimulations: `positions` (nm) and
    `orientations` (ZXZ, degrees) as they are recorded, with their errors, and its
    `custom_data`.
    """
    density: DensityMap | None = None
    """What is no particle, such as a membrane: a map whose voxel `n // 2` lies in the
    middle of the ice, and is not turned."""


class Assembler(Protocol):
    """Makes one sample after another; entry points of `em_platform.assemblers`.

    It is made with the plan, the maps of the plan's particles in their order, and a
    folder that is its own.
    """

    def __init__(
        self, plan: Plan, maps: tuple[DensityMap, ...], temp_dir: Path
    ) -> None: ...

    def set_up_tiltseries(self, stack: int) -> Sample:
        """The sample of a stack; the same for the same plan and number."""
        ...

    def reset_temp_dir(self) -> None:
        """Forget what the last sample left in the temporary folder."""
        ...

    def close(self) -> None:
        """End what was started, such as Chimera's processes."""
        ...


def index_of(maps: tuple[DensityMap, ...], name: str, *, kind: str) -> int:
    """Where the particle of this name stands among the maps; empty: the first.

    Raises
    ------
    ConfigError
        No particle has this name.
    """
    names = [each.name for each in maps]
    if not names:
        raise ConfigError(
            f"assembler {kind}: found no particles in the plan, at least one was "
            "expected; name its file in `particles`"
        )
    if name and name not in names:
        raise ConfigError(
            f"assembler {kind}: found the particle {name}, one of {', '.join(names)} "
            "was expected; correct its name"
        )
    return names.index(name) if name else 0


def options_of(plan: Plan, model: type[Options]) -> Options:
    """The plan's `assembly.options` as an assembler has them.

    Raises
    ------
    ConfigError
        One is unknown, missing or wrong.
    """
    try:
        return model.model_validate(plan.assembly.options)
    except ValidationError as error:
        raise ConfigError(
            f"assembler {plan.assembly.kind}: assembly.options."
            f"{first_problem(error, model)}; correct it, the options are in "
            "docs/explanations/simulation.md"
        ) from error
