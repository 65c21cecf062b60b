"""The plan of a data set, read from a YAML file."""

from pathlib import Path

from pydantic import ValidationError

from em_platform.config.reading import parse_yaml, read_regular
from em_platform.errors import ConfigError
from em_platform.model import JsonObject
from em_platform.model.base import first_problem
from em_platform.simulation.tilt_series.ets_config import ets_plan, is_ets_config
from em_platform.simulation.tilt_series.plan import Plan


def read_plan(path: Path) -> Plan:
    """The plan that a file states; files it names are looked for beside it.

    A `configs.yaml` of ETSimulations is taken as it is.

    Raises
    ------
    ConfigError
        It cannot be read, is no YAML, or a field is unknown, missing or wrong.
    """
    try:
        content = parse_yaml(read_regular(path).decode())
    except OSError as error:
        raise ConfigError(
            f"simulation: {path} cannot be read ({error.strerror or error}), the YAML "
            "file of a plan was expected; correct its path"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"simulation: {path} is no YAML ({error}); correct it there"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"simulation: {path} holds no fields, `pixel_nm:` and the like were "
            "expected; see docs/how-to/simulate-tilt-series.md"
        )
    folder = path.absolute().parent
    if is_ets_config(content):
        return ets_plan(content, folder=folder)
    return _beside(plan_of(content, source=str(path)), folder)


def plan_of(content: JsonObject, *, source: str) -> Plan:
    """The plan that such fields state; `source` is named in the sentence of an error.

    Raises
    ------
    ConfigError
        A field is unknown, missing or wrong.
    """
    try:
        return Plan.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise ConfigError(
            f"simulation: {source}: {first_problem(error, Plan)}; correct it, the "
            "fields are in docs/reference/plan.md"
        ) from error


def _beside(plan: Plan, folder: Path) -> Plan:
    def beside(file: str) -> str:
        return str(folder / Path(file).expanduser()) if file else ""

    particles = tuple(
        kind.model_copy(update={"file": beside(kind.file)}) for kind in plan.particles
    )
    beads = plan.beads.model_copy(update={"file": beside(plan.beads.file)})
    return plan.model_copy(update={"particles": particles, "beads": beads})
