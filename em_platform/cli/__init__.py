"""The command line: one word a domain; each command is loaded only when called."""

import importlib
import os
import sys
from typing import Any

import click

from em_platform.errors import ConfigError, PlatformError

USER_COMMANDS = {
    "up": "start the platform: broker, recorder, web UI, daemon",
    "demo": "the main job: two montages to mosaics, five public sources to volumes",
    "acquire": "image montages with the microscope",
    "stitch": "stitch a folder or list of tiles into an OME-Zarr mosaic",
    "ingest": "fetch public data into volumes and the catalog",
    "inspect": "shape, type, voxel size and tags of an image",
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

_MODULES = {
    "up": "platform",
    **dict.fromkeys(("broker", "recorder", "device", "service"), "processes"),
}
"""Command -> the module that holds it under its own name; others: `<name>.command`."""


class _Commands(click.Group):
    """Imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(
            f"em_platform.cli.{_MODULES.get(cmd_name, cmd_name)}"
        )
        name = cmd_name if cmd_name in _MODULES else "command"
        command: click.Command = getattr(module, name)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(USER_COMMANDS.items()))
        with formatter.section("Commands for developers and single services"):
            formatter.write_dl(list(DEVELOPER_COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="em-platform")
@click.option("--config", "config_file", metavar="FILE", help="YAML file of settings.")
@click.option(
    "--profile",
    metavar="NAME",
    help="Settings below that file: sim, T1, or a YAML file of your own.",
)
@click.option(
    "--set",
    "assignments",
    metavar="SECTION.FIELD=VALUE",
    multiple=True,
    help="Set one setting, above all other layers; may be repeated.",
)
def cli(
    config_file: str | None, profile: str | None, assignments: tuple[str, ...]
) -> None:
    """Data orchestration for electron microscopy."""
    # Through the environment, so that child processes have the same settings.
    if config_file is not None:
        os.environ["EM_CONFIG_FILE"] = os.path.abspath(config_file)
    if profile is not None:
        choose_profile(profile)
    if assignments:
        os.environ.update(_variables(assignments))


def choose_profile(name: str) -> None:
    """Let this process and its children have the settings of a profile."""
    from em_platform.config import profiles

    os.environ[profiles.VARIABLE] = profiles.resolved(name)


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
    """Run the command line; a platform error is one sentence and status 1."""
    try:
        return cli(arguments)
    except PlatformError as error:
        click.echo(f"em-platform: {error}", err=True)
        sys.exit(1)
