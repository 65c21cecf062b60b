"""All tilt series of a plan, one after another, into one folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from em_platform.errors import ConfigError
from em_platform.simulation.tilt_series.backends.backend import Backend
from em_platform.simulation.tilt_series.particles import existing_file
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.sample import assembling
from em_platform.simulation.tilt_series.stack import (
    MadeStack,
    Progress,
    simulate_stack,
)
from em_platform.simulation.tilt_series.tables import write_records
from em_platform.storage.guard import claim_folder, refuse_place

LIBRARY = "library"
"""Folder of the particles' maps in the output."""


def stack_names(plan: Plan) -> tuple[str, ...]:
    """The names of all stacks of a plan: their folders and partitions."""
    return tuple(plan.stack_name(number) for number in range(plan.stacks))


def simulate(
    plan: Plan,
    output: Path,
    *,
    backend: Backend,
    stacks: Sequence[int] = (),
    inputs: Sequence[str] = (),
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Iterator[MadeStack]:
    """Each stack of the plan as it is done; those that stand already are kept.

    Parameters
    ----------
    stacks
        Numbers of the stacks that are wanted; empty: all.
    inputs
        Files that must not be in the output.

    Raises
    ------
    ConfigError
        The plan has no such stack, or as `sample.assembling`.
    OutputRefused
        The output holds what this program did not make.
    PlatformError
        As `stack.simulate_stack`.
    """
    unknown = [number for number in stacks if not 0 <= number < plan.stacks]
    if unknown:
        raise ConfigError(
            f"simulation: {plan.name} has the stacks 0 to {plan.stacks - 1}, number "
            f"{unknown[0]} is none of them; raise `stacks` or name another one"
        )
    refuse_place(str(output), (*inputs, *(kind.file for kind in plan.sources)))
    for kind in plan.sources:  # before anything is written
        existing_file(kind)
    with assembling(plan, library=_claimed(output) / LIBRARY) as sample_of:
        for number in stacks or range(plan.stacks):
            made = simulate_stack(
                plan,
                number,
                output,
                sample_of=sample_of,
                backend=backend,
                progress=progress,
                overwrite=overwrite,
            )
            write_records(output)
            yield made


def _claimed(output: Path) -> Path:
    claim_folder(str(output), "simulation")
    return output
