"""A stage into its folder: as a whole, once, and again only when something changed."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from em_platform.cryoem.headers import read_header
from em_platform.cryoem.stage import (
    RESULT,
    GivenStages,
    RawParameters,
    StageParameters,
    StageResult,
    options_of,
    overlaid,
)
from em_platform.cryoem.stages import load_stage, set_parameters
from em_platform.errors import ConfigError
from em_platform.model.base import Foreign, first_problem
from em_platform.storage.guard import whole_folder


def run_stage(
    name: str,
    values: RawParameters,
    folder: Path,
    *,
    stages: GivenStages | None = None,
    header_of: Path | None = None,
) -> StageResult:
    """The result of a stage in `folder`; nothing is done where it is there already.

    Parameters
    ----------
    values
        Parameters by their names; those that are None are left to the header and the
        stage's defaults.
    stages
        Parameters by stage that win over them (`cryoem.session.stages`).
    header_of
        The file whose header has the values that are not given.

    Raises
    ------
    PlatformError
        As the stage; ConfigError where a parameter is missing or wrong.
    """
    stage = load_stage(name)
    values = overlaid(stage.Parameters, values, set_parameters(name, stages or {}))
    parameters = _parameters(name, stage.Parameters, values, header_of)
    asked = {
        "stage": name,
        "parameters": parameters.model_dump(mode="json"),
        "inputs": _state(parameters),
    }
    there = _there(folder)
    if there.model_dump(exclude={"result"}) == asked:
        return stage.Result.model_validate(there.result)
    with whole_folder(folder, f"cryoem {name} result") as own:
        result = stage.run(parameters, own)
        content = {**asked, "result": result.model_dump(mode="json")}
        (own / RESULT).write_text(json.dumps(content, indent=1) + "\n")
    return result


def result_of(name: str, folder: Path) -> StageResult | None:
    """What a stage found before; None where it did not run, or was of another kind."""
    there = _there(folder)
    if there.stage != name:
        return None
    try:
        return load_stage(name).Result.model_validate(there.result)
    except ValidationError:  # of another version
        return None


def parameters_of(folder: Path) -> dict[str, JsonValue]:
    """The parameters of the stage that ran there; none where none did."""
    return _there(folder).parameters


class _Ran(Foreign):
    """What a folder's `RESULT` has of the stage that ran there."""

    stage: str = ""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    inputs: JsonValue = None
    result: JsonValue = None


def _there(folder: Path) -> _Ran:
    try:
        return _Ran.model_validate_json((folder / RESULT).read_bytes())
    except (OSError, ValidationError):
        return _Ran()


def _parameters(
    name: str,
    kind: type[StageParameters],
    values: RawParameters,
    header_of: Path | None,
) -> StageParameters:
    given = {key: value for key, value in values.items() if value is not None}
    if header_of is not None:
        header = read_header(header_of)
        for key, (option, _) in options_of(kind).items():
            stated = getattr(header, option.header) if option.header else None
            if stated is not None:
                given.setdefault(key, stated)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"cryoem {name}: {first_problem(error)}; set {place} in cryoem.session or "
            f"in the session's session.yaml, as no header of {header_of} states it"
        ) from error


def _state(parameters: StageParameters) -> list[list[Any]]:
    """Path, size and time of change of each file that the parameters name."""
    found: list[list[Any]] = []
    for value in dict(parameters).values():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path) and path.is_file():
                status = path.stat()
                found.append([str(path), status.st_size, status.st_mtime_ns])
    return found
