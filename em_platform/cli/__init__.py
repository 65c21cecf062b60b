"""The command line: one word a domain; each command is loaded only when called."""

import gc
import importlib
import os
import sys
from typing import Any

import click

from em_platform.cli.console_output import VERBOSITY, own_fault
from em_platform.errors import ConfigError, PlatformError

USER_COMMANDS = {
    "up": "start the platform: broker, recorder, web UI, daemon",
    "demo": "the main job: montages, public sources, a simulated tilt series",
    "acquire": "image montages with the microscope",
    "stitch": "stitch a folder or list of tiles into an OME-Zarr mosaic",
    "sections": "simulate serial sections of tissue, tile by tile, with their truth",
    "simulate": "simulate tilt series of particles in ice, with their truth",
    "ingest": "fetch public data into volumes and the catalog",
    "inspect": "shape, type, voxel size and tags of an image",
    "cryoem": "process cryo-EM movies, micrographs and tilt series, a stage at a time",
    "convert": "write any image file or volume as an OME-Zarr",
    "export": "write a mosaic or volume as TIFF or PNG",
    "catalog": "list, search, check, consolidate and export catalog records",
    "view": "open a mosaic or volume in the browser (Neuroglancer)",
    "config": "show all settings and their values",
}

DEVELOPER_COMMANDS = {
    "broker": "run the embedded message broker",
    "recorder": "record the microscope's events",
    "device": "run one simulated device: scope, stage or camera",
    "service": "run one service of the live microscope",
    "fault": "switch faults of the simulated devices on and off",
    "standins": "run stand-ins of the public sources on this machine",
    "docs": "write the reference pages from the code",
}

COMMANDS = {**USER_COMMANDS, **DEVELOPER_COMMANDS}
"""Command -> its one line."""

_FULL_COLLECTION = 100
"""Collections of the middle generation before all objects are searched, not 10: a
command's imports make a million objects that stay, and the searches took a fifth of
the time of a small `stitch`."""

_MODULES = {
    "up": "platform",
    **dict.fromkeys(("broker", "recorder", "device", "service"), "processes"),
}
"""Command -> the module that holds it under its own name; others: `<name>.command`."""


class _Commands(click.Group):
    """Imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        # In the order of the table; click's own is that of the alphabet.
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name if cmd_name in _MODULES else "command"
        # Only this one: all of them together import Dagster, Dask and OpenCV.
        module = importlib.import_module(
            f"em_platform.cli.{_MODULES.get(cmd_name, cmd_name)}"
        )
        command: click.Command = getattr(module, name)
        _accept_common_options(command)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(USER_COMMANDS.items()))
        with formatter.section("Commands for developers and single services"):
            formatter.write_dl(list(DEVELOPER_COMMANDS.items()))


def _apply_config(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        # A child process may have another folder.
        os.environ["EM_CONFIG_FILE"] = os.path.abspath(value)


def _apply_profile(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        # Here and below: help and completion come without loading the settings.
        from em_platform.config import profiles

        os.environ[profiles.VARIABLE] = profiles.resolved(value)


def _apply_assignments(
    _: click.Context, __: click.Parameter, value: tuple[str, ...]
) -> None:
    if value:
        os.environ.update(_variables(value))


def _apply_verbosity(
    context: click.Context, parameter: click.Parameter, value: int
) -> None:
    if value:
        sign = -1 if parameter.name == "quiet" else 1
        # At the root, as the option may stand before the command or after it.
        context.find_root().meta[VERBOSITY] = sign * value


def _common_options(*, hidden: bool) -> list[click.Option]:
    """The options that every command takes, before its name or after it.

    They act through the environment, so that child processes have the same settings.
    They are eager: a command's own options are read when all settings are known.
    """
    # Hidden below: every command's help would repeat them.
    common = {"expose_value": False, "hidden": hidden, "is_eager": True}
    return [
        click.Option(
            ["--config"],
            metavar="FILE",
            callback=_apply_config,
            help="YAML file of settings.",
            **common,
        ),
        click.Option(
            ["--profile"],
            metavar="NAME",
            callback=_apply_profile,
            help="Settings below that file: sim, T1, or a YAML file of your own.",
            **common,
        ),
        click.Option(
            ["--set"],
            metavar="SECTION.FIELD=VALUE",
            multiple=True,
            callback=_apply_assignments,
            help="Set one setting, above all other layers; may be repeated.",
            **common,
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            callback=_apply_verbosity,
            help="More messages; -vv: also those for developers.",
            **common,
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            callback=_apply_verbosity,
            help="Only results and errors.",
            **common,
        ),
    ]


def _accept_common_options(command: click.Command) -> None:
    """Let a command and those below it take the common options, too, once."""
    names = {parameter.name for parameter in command.params}
    # Once: a module stays loaded, but its command may be asked for again.
    command.params += [
        option for option in _common_options(hidden=True) if option.name not in names
    ]
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _accept_common_options(below)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[*_common_options(hidden=False)],
    epilog="--config, --profile, --set, -v and -q can also stand after the command.",
)
@click.version_option(package_name="em-platform")
def cli() -> None:
    """Data orchestration for electron microscopy."""


def _variables(assignments: tuple[str, ...]) -> dict[str, str]:
    from em_platform.config import export

    for text in assignments:
        if "=" not in text:
            raise ConfigError(
                f"command line: --set {text}: no '=' found, expected "
                "section.field=value; write it so"
            )
    return export(dict(text.split("=", 1) for text in assignments))


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; an error of any kind is one sentence and status 1."""
    gc.set_threshold(*gc.get_threshold()[:2], _FULL_COLLECTION)
    try:
        return cli(arguments)
    except Exception as error:
        shown = error if isinstance(error, PlatformError) else own_fault(error)
        click.echo(f"em-platform: {shown}", err=True)
        sys.exit(1)
