"""`em-platform docs`: the reference pages and `config.yaml`, written from the code."""

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import click
from pydantic.fields import FieldInfo

import em_platform
from em_platform import errors
from em_platform.config import FIELDS, sections
from em_platform.config.example import example_yaml, shown
from em_platform.config.fields import limits_of
from em_platform.config.settings import ALIASES
from em_platform.errors import OutputRefused, PlatformError, ToolFailed
from em_platform.model import Model
from em_platform.storage import atomic

_GENERATED = "<!-- Written by `em-platform docs`; do not edit. -->"


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    help="Top folder of the checkout (default: the current folder).",
)
def command(folder: Path) -> None:
    """Write docs/reference/*.md and config.yaml from the code."""
    if not (folder / "em_platform" / "cli" / "docs.py").is_file():
        raise OutputRefused(
            f"docs: {folder.absolute()} is not a checkout of em_platform, whose pages "
            "this command writes; run it there, or name it by --folder"
        )
    for name, write in PAGES.items():
        atomic.write_bytes(folder / name, write().encode())
        click.echo(f"wrote {folder / name}")


def cli_page() -> str:
    """Every command with its options."""
    from em_platform.cli import COMMANDS, cli

    lines = ["# Command line", "", _GENERATED, ""]
    lines += ["These options stand before a command or after it:", "", *_options(cli)]
    lines += ["", "[How to call it](../how-to/use-the-command-line.md).", ""]
    for name in COMMANDS:
        found = cli.get_command(click.Context(cli), name)
        lines += _command(f"em-platform {name}", found)
    return _text(lines)


def config_page() -> str:
    """Every setting with its name in each layer, its type and default."""
    lines = ["# Settings", "", _GENERATED, ""]
    lines += ["Layers, later ones win: defaults, YAML (`config.yaml` or the file that"]
    lines += [
        "`EM_CONFIG_FILE` names), `.env`, environment, `--set` of the command line."
    ]
    for path, model in sections():
        lines += ["", f"## {'.'.join(path) or 'Top level'}", ""]
        # Also the docstrings of the sections that it extends.
        for one in model.__mro__[: model.__mro__.index(Model)]:
            lines += [inspect.getdoc(one) or "", ""]
        lines += ["| setting | environment | type | default |", "|---|---|---|---|"]
        for field in FIELDS.values():
            if field.path[:-1] == path:
                kind = _type_name(field.kind) + (
                    f", {field.limits}" * bool(field.limits)
                )
                default = f"`{shown(field)}`"
                name = field.environment_name
                lines.append(f"| `{field.name}` | `{name}` | {kind} | {default} |")
    lines += ["", "## Names of other systems", ""]
    lines += [f"- `{name}` is `{'.'.join(path)}`" for name, path in ALIASES.items()]
    return _text(lines)


def plan_page() -> str:
    """Every field of the YAML file that `simulate` takes."""
    from em_platform.simulation.tilt_series.plan import Plan

    physics = "[the physics, the options of assemblers](../explanations/simulation.md)"
    lines = ["# Plan of simulated tilt series", "", _GENERATED, ""]
    lines += [
        "The YAML file of `em-platform simulate`; unknown fields are refused. See "
    ]
    lines[-1] += f"[an example](../how-to/simulate-tilt-series.md) and {physics}."
    lines += ["", "## Top level", "", *_plan_fields(Plan)]
    for name, field in Plan.model_fields.items():
        for model in _models_of(field):
            lines += ["", f"## {name}", "", inspect.getdoc(model) or "", ""]
            lines += _plan_fields(model)
    return _text(lines)


def _models_of(field: FieldInfo) -> list[type[Model]]:
    """What a part of a plan, or each one of a list of parts, consists of."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return [each for each in kinds if inspect.isclass(each) and issubclass(each, Model)]


def _plan_fields(model: type[Model]) -> Iterator[str]:
    meaning = _meanings(model)
    yield from ("| field | type | default | |", "|---|---|---|---|")
    for name, field in model.model_fields.items():
        if _models_of(field):  # has a table of its own
            continue
        shown, default = _type_name(field.annotation), "required"
        if not field.is_required():
            value = field.get_default(call_default_factory=True)
            default = f"`{json.dumps(value)}`"
            if isinstance(value, StrEnum):
                shown = " or ".join(type(value))
        limits = ", ".join([shown, *limits_of(field.metadata)])
        yield f"| `{name}` | {limits} | {default} | {meaning.get(name, '')} |"


def _meanings(model: type[Model]) -> dict[str, str]:
    """What the string below a field says of it."""
    found = {}
    tree = ast.parse(inspect.getsource(model))
    for field, text in pairwise(each for c in tree.body for each in vars(c)["body"]):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                found[name] = " ".join(words.split())
    return found


def topics_page() -> str:
    """Every message topic that the code names, with its fields and who names it."""
    import TEM_comms

    lines = ["# Topics", "", _GENERATED, ""]
    lines += [
        "Messages are those of the PyPI package `pigeon-tem-comms`. A field with `=`"
    ]
    lines += ["has a default and may be left out.", ""]
    for topic, users in sorted(used_topics().items()):
        message = TEM_comms.topics[topic]
        lines += [f"## `{topic}`", "", f"In: {', '.join(f'`{u}`' for u in users)}", ""]
        lines += ["| field | type |", "|---|---|"]
        for name, field in message.model_fields.items():
            default = "" if field.is_required() else f" = {field.get_default()!r}"
            lines.append(f"| `{name}` | {_type_name(field.annotation)}{default} |")
        lines.append("")
    return _text(lines)


def used_topics() -> dict[str, list[str]]:
    """Topic -> the modules whose code names it, as a whole string."""
    import TEM_comms

    folder = Path(em_platform.__file__).parent
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        text = path.read_text(encoding="utf-8")
        if not any(topic in text for topic in TEM_comms.topics):
            continue
        # The tree and not the text: comments and parts of words do not count.
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if node.value in TEM_comms.topics:
                    found.setdefault(node.value, set()).add(module)
    return {topic: sorted(users) for topic, users in found.items()}


def errors_page() -> str:
    """Every error class under its parent."""
    lines = ["# Errors", "", _GENERATED, ""]
    lines += [
        "Each error is one sentence: who: what was found, what was expected; what to"
    ]
    lines += [
        "do. The facts in it stand as metadata at the failed step in the web UI.",
        "",
    ]
    return _text([*lines, *_error_lines(PlatformError, depth=0)])


def catalog_page() -> str:
    """The JSON schema of a catalog record."""
    from em_platform.catalog.validate import published_schema

    schema = published_schema()
    lines = ["# Catalog record", "", _GENERATED, "", schema.get("description", ""), ""]
    lines += ["`em-platform catalog schema` prints it.", ""]
    lines += ["```json", json.dumps(schema, indent=1), "```"]
    return _text(lines)


def assets_page() -> str:
    """Assets, checks, jobs, sensors and schedules, by a process that loads Dagster."""
    # Another process, as the command line and the definitions import not each other.
    command = [sys.executable, "-m", "em_platform.reference"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise ToolFailed(f"docs: the definitions did not load ({last}); correct them")
    return result.stdout


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/cli.md": cli_page,
    "docs/reference/config.md": config_page,
    "docs/reference/plan.md": plan_page,
    "docs/reference/topics.md": topics_page,
    "docs/reference/assets.md": assets_page,
    "docs/reference/errors.md": errors_page,
    "docs/reference/catalog-schema.md": catalog_page,
    "config.yaml": example_yaml,
}
"""File below the checkout -> what writes its text."""


def _command(name: str, found: click.Command | None) -> Iterator[str]:
    assert found is not None  # noqa: S101 - COMMANDS names only commands
    arguments = [p.make_metavar(click.Context(found)) for p in found.params]
    usage = [
        a
        for a, p in zip(arguments, found.params, strict=True)
        if isinstance(p, click.Argument)
    ]
    yield from (f"## `{' '.join([name, *usage])}`", "")
    for paragraph in inspect.cleandoc(found.help or "").split("\n\n"):
        yield from (_kept_lines(paragraph), "")
    yield from _options(found)
    yield ""
    if isinstance(found, click.Group):
        # Asked by name: those of `cryoem` are made when they are asked for.
        context = click.Context(found)
        for below in found.list_commands(context):
            yield from _command(f"{name} {below}", found.get_command(context, below))


def _kept_lines(paragraph: str) -> str:
    """A paragraph whose lines click keeps apart, as a block."""
    if not paragraph.startswith("\b\n"):
        return paragraph
    lines = paragraph.removeprefix("\b\n")
    return f"```\n{lines}\n```"


def _options(found: click.Command) -> Iterator[str]:
    for option in found.params:
        if isinstance(option, click.Option) and not option.hidden:
            names = ", ".join(f"`{n}`" for n in (*option.opts, *option.secondary_opts))
            kind = (
                ""
                if option.is_flag
                else f" {option.make_metavar(click.Context(found))}"
            )
            default = option.default if option.show_default else None
            end = "" if default is None else f" (default: {default})"
            yield f"- {names}{kind}: {option.help or ''}{end}"


def _error_lines(kind: type[PlatformError], *, depth: int) -> Iterator[str]:
    doc = " ".join((inspect.getdoc(kind) or "").split())
    again = " Retryable." if kind.retryable else ""
    yield f"{'  ' * depth}- `{kind.__name__}`: {doc}{again}"
    # In the order of the file, which is that of its tree.
    for below in vars(errors).values():
        if (
            isinstance(below, type)
            and issubclass(below, kind)
            and kind in below.__bases__
        ):
            yield from _error_lines(below, depth=depth + 1)


def _type_name(kind: Any) -> str:
    text = (
        kind.__name__
        if inspect.isclass(kind) and not hasattr(kind, "__args__")
        else str(kind)
    )
    for noise in ("typing.", "pathlib.", "pydantic.types.", "em_platform.model."):
        text = text.replace(noise, "")
    # In a table of Markdown `|` ends a cell, and `<` begins HTML.
    return text.replace("|", "or").replace("<", "").replace(">", "")


def _text(lines: list[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"
