"""`em-platform cryoem`: each stage by itself, its options made from its parameters."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo

from em_platform.cli.console_output import own_fault, step_progress
from em_platform.cli.cryoem_output import print_result
from em_platform.cli.cryoem_recipe import COMMANDS as WITH_RECIPES
from em_platform.cryoem.sessions.checks import stage_checks
from em_platform.cryoem.stage import (
    Option,
    RawParameters,
    StageParameters,
    StageResult,
    options_of,
    progress_to,
)
from em_platform.cryoem.stages import STAGES, load_stage
from em_platform.errors import ConfigError, OutputRefused, PlatformError
from em_platform.model.base import first_problem

RESULT = "result.json"
# Made of one file after the other: each has a folder in that of all.
_PICTURES = "thumbnail"


class _Stages(click.Group):
    """The stages of the table; each is imported only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*STAGES, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in STAGES and cmd_name not in self.commands:
            made = _command_of(cmd_name)
            # The group itself has the common options alone.
            made.params += self.params
            self.add_command(made)
        return super().get_command(ctx, cmd_name)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        if STAGES:
            with formatter.section("Stages"):
                formatter.write_dl(list(STAGES.items()))
        own = {k: each.get_short_help_str(70) for k, each in self.commands.items()}
        with formatter.section("Recipes and services"):
            formatter.write_dl([(k, v) for k, v in own.items() if k not in STAGES])


@click.group(cls=_Stages)
def command() -> None:
    """Process cryo-EM data, a stage at a time.

    What an option does not give is read from the header of INPUT, or from SerialEM's
    mdoc beside it, where it stands there.
    """


for _each in WITH_RECIPES:
    command.add_command(_each)


def _command_of(name: str) -> click.Command:
    kind = load_stage(name).Parameters
    options = options_of(kind)
    found: list[click.Parameter] = [
        _parameter(field_name, option, field)
        for field_name, (option, field) in options.items()
    ]
    found += [
        click.Option(
            ["--output"],
            required=True,
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="folder for the results; of several INPUTs one in it for each"
            + (", also of one" if name == _PICTURES else ""),
        ),
        click.Option(
            ["--overwrite"],
            is_flag=True,
            help="also replace the results of another INPUT; never other files",
        ),
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            help="the result and whether it is good as JSON, a line for each INPUT",
        ),
    ]

    def run(
        output: Path, *, overwrite: bool, as_json: bool, **given: Any
    ) -> None:  # click calls it by the names of the options
        _run_all(name, given, output, overwrite=overwrite, as_json=as_json)

    line = STAGES[name]
    inputs = [option.help for option, _ in options.values() if option.is_input]
    about = "".join(f"\n\nINPUT: {each}." for each in inputs)
    return click.Command(
        name,
        params=found,
        callback=run,
        help=f"{line[0].upper()}{line[1:]}.{about}",
        short_help=line,
        context_settings={"max_content_width": 100},
    )


def _parameter(name: str, option: Option, field: FieldInfo) -> click.Parameter:
    kind, is_many = _kind_of(field.annotation)
    shown = _click_type(kind)
    if option.is_input:
        # Several files of a stage that takes one are a run each.
        return click.Argument([name], metavar=f"{option.name}...", type=shown, nargs=-1)
    help_ = option.help
    if not field.is_required() and field.default is not None:
        default = field.get_default(call_default_factory=True)
        help_ += "" if default in ((), "", False) else f"  [default: {default}]"
    if option.header:
        help_ += "  [from the header]"
    if kind is bool:
        both = f"{option.name}/--no-{option.name.removeprefix('--')}"
        return click.Option([both, name], default=None, help=help_)
    return click.Option(
        [option.name, name],
        type=shown,
        multiple=is_many,
        help=help_,
        metavar="FILE" if kind is Path else None,
    )


def _kind_of(annotation: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be several."""
    if get_origin(annotation) in (Union, UnionType):
        (first, *_) = (a for a in get_args(annotation) if a is not NoneType)
        return _kind_of(first)
    if get_origin(annotation) is tuple and get_args(annotation)[-1] is Ellipsis:
        return get_args(annotation)[0], True
    return annotation, False


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice([str(each) for each in get_args(kind)])
    if kind is Path:
        return click.Path(path_type=Path)
    # Others, such as two numbers in one word, are the parameters' own to read.
    return kind if kind in (int, float) else str


def _run_all(
    name: str,
    given: RawParameters,
    output: Path,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    from em_platform.config import load_settings

    failed = False
    # First, as a wrong setting ends it all.
    limits = load_settings().cryoem.limits
    runs = _runs(name, given)
    for values, inputs in runs:
        is_alone = len(runs) == 1 and name != _PICTURES
        folder = output if is_alone else output / _stem(inputs[0])
        try:
            result = _run_one(name, values, inputs, folder, overwrite=overwrite)
        except Exception as error:
            shown = error if isinstance(error, PlatformError) else own_fault(error)
            if len(runs) == 1:
                raise shown from error
            # One bad file does not keep the others waiting.
            click.echo(f"em-platform: {shown}", err=True)
            failed = True
            continue
        checks = stage_checks(name, result, limits)
        print_result(result, checks, folder, as_json=as_json)
    if failed:
        sys.exit(1)


def _runs(
    name: str, given: RawParameters
) -> list[tuple[RawParameters, Sequence[Path]]]:
    """The values of each run, with its inputs."""
    options = options_of(load_stage(name).Parameters)
    values = {
        key: value
        for key, value in given.items()
        # What was not given is left to the header and the defaults.
        if value not in (None, ())
    }
    for key, (option, field) in options.items():
        if not option.is_input:
            continue
        inputs: tuple[Path, ...] = values.pop(key, ())
        if not inputs:
            raise ConfigError(
                f"cryoem {name}: no {option.name} was given, expected {option.help}; "
                "name it"
            )
        if _kind_of(field.annotation)[1]:
            return [({**values, key: inputs}, inputs)]
        return [({**values, key: path}, (path,)) for path in inputs]
    return [(values, ())]


def _run_one(
    name: str,
    values: RawParameters,
    inputs: Sequence[Path],
    folder: Path,
    *,
    overwrite: bool,
) -> StageResult:
    from em_platform.storage.guard import refuse_place, whole_folder

    stage = load_stage(name)
    parameters = _parameters(name, stage.Parameters, values, inputs)
    refuse_place(str(folder), [str(path) for path in _files_of(parameters)])
    _refuse_result_of_others(name, inputs, folder, overwrite=overwrite)
    with (
        step_progress(f"cryoem {name}") as progress,
        progress_to(progress),
        whole_folder(folder, f"cryoem {name} result") as own,
    ):
        result = stage.run(parameters, own)
        content = {
            "stage": name,
            "inputs": _absolute(inputs),
            "parameters": parameters.model_dump(mode="json"),
            "result": result.model_dump(mode="json"),
        }
        (own / RESULT).write_text(json.dumps(content, indent=1) + "\n")
    return result


def _parameters(
    name: str,
    kind: type[StageParameters],
    values: RawParameters,
    inputs: Sequence[Path],
) -> StageParameters:
    """The parameters: what was given, else what the first input's header states.

    Raises
    ------
    ConfigError
        One is missing, or wrong; the sentence names its option.
    """
    options = options_of(kind)
    if inputs and any(option.header for option, _ in options.values()):
        from em_platform.cryoem.headers import read_header

        header = read_header(inputs[0])
        for key, (option, _) in options.items():
            stated = getattr(header, option.header) if option.header else None
            if stated is not None:
                values = {key: stated, **values}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = str(first["loc"][0]) if first["loc"] else ""
        shown, by_header = _option_at(place, options)
        if first["type"] == "missing" and by_header:
            wrong = f"{inputs[0]}: its header states no {by_header}, {shown} was not "
            raise ConfigError(f"{wrong}given either; give {shown}") from error
        if first["type"] == "missing":
            raise ConfigError(
                f"cryoem {name}: {shown or place} was not given, "
                f"{_help_at(place, options)} was expected; give it"
            ) from error
        wrong = first_problem(error)
        if shown:
            wrong = f"{shown}: {wrong.removeprefix(f'{place}: ')}"
        raise ConfigError(f"cryoem {name}: {wrong}; correct it") from error


def _help_at(place: str, options: Mapping[str, tuple[Option, FieldInfo]]) -> str:
    return next((o.help for key, (o, _) in options.items() if key == place), "it")


def _option_at(
    place: str, options: Mapping[str, tuple[Option, FieldInfo]]
) -> tuple[str, str]:
    """The option, and what it is in a header, of the field that an error names."""
    for key, (option, field) in options.items():
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [alias]
        if place == key or place in names:
            return option.name, (option.header or "").rpartition("_")[0].replace(
                "_", " "
            )
    return "", ""


def _files_of(parameters: StageParameters) -> list[Path]:
    found: list[Path] = []
    for value in dict(parameters).values():
        each = value if isinstance(value, tuple) else (value,)
        found += [path for path in each if isinstance(path, Path)]
    return found


def _refuse_result_of_others(
    name: str, inputs: Sequence[Path], folder: Path, *, overwrite: bool
) -> None:
    try:
        there = json.loads((folder / RESULT).read_bytes())["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # the guard says what it thinks of other folders
    if there != _absolute(inputs) and not overwrite:
        raise OutputRefused(
            f"cryoem {name}: {folder} holds the result of {', '.join(there)[:200]}, "
            f"that of {inputs[0] if inputs else 'nothing'} was to be written; name "
            "another folder, or replace it by --overwrite"
        )


def _absolute(paths: Sequence[Path]) -> list[str]:
    return [str(path.absolute()) for path in paths]


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name
