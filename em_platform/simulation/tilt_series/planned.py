"""Which tilt series the plans in a folder ask for: one partition each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from em_platform.errors import ConfigError, PlatformError
from em_platform.simulation.tilt_series.data_set import stack_names
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.plan_file import read_plan
from em_platform.storage.growing_folder import digest_of

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """One file of the folder: its plan, or why it cannot be used."""

    path: Path
    plan: Plan | None
    problem: str = ""

    @property
    def stacks(self) -> dict[str, str]:
        """Name of each stack -> a mark that another plan of it would not have."""
        if self.plan is None:
            return {}
        # More stacks of a plan leave those that are there as they are.
        mark = digest_of(self.plan.model_dump_json(exclude={"stacks"}))[:16]
        return dict.fromkeys(stack_names(self.plan), mark)


def plan_files(folder: Path) -> Iterator[PlanFile]:
    """The plans of a folder by their files' names; none where it is not there."""
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in _SUFFIXES and path.name[0] != ".":
            try:
                yield PlanFile(path=path, plan=read_plan(path))
            except PlatformError as error:
                yield PlanFile(path=path, plan=None, problem=str(error))


def planned_stack(folder: Path, name: str) -> tuple[Plan, int]:
    """The plan of the stack of that name, and its number in it.

    Raises
    ------
    ConfigError
        No plan has such a stack; or the one that may cannot be read.
    """
    found = list(plan_files(folder))
    for each in found:
        if each.plan is not None and name in each.stacks:
            return each.plan, list(each.stacks).index(name)
    broken = [each.problem for each in found if each.plan is None]
    if broken:
        raise ConfigError(broken[0])
    raise ConfigError(
        f"simulation: no plan in {folder} has a stack {name}, one with that name was "
        "expected (<name of the plan>-<number>); put its YAML there, or raise `stacks`"
    )
