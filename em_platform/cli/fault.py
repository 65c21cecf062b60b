"""`em-platform fault`: faults of the simulated devices, switched while they run."""

import click

from em_platform.config import load_settings
from em_platform.errors import ConfigError
from em_platform.processes.single_instance import claim_home
from em_platform.simulation.devices.commanded import (
    COMMANDED,
    clear_faults,
    read_faults,
    set_faults,
)

_HELP = "\n".join(f"  {name}: {meaning}" for name, meaning in COMMANDED.items())


# \b keeps the lines apart, for click.
@click.command(epilog=f"\b\nFaults:\n{_HELP}")
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE ...|clear]")
def command(changes: tuple[str, ...]) -> None:
    """Switch faults of the simulated microscope on and off, while it runs.

    NAME=0 ends one fault, `clear` all of them. Without arguments it lists those that
    are on.
    """
    settings = load_settings()
    claim_home(settings)
    home = settings.home
    if changes == ("clear",):
        faults = clear_faults(home)
    elif changes:
        faults = set_faults(home, dict(_change(text) for text in changes))
    else:
        faults = read_faults(home)
    lines = [f"{name} = {fault.value:g}" for name, fault in faults.on.items()]
    click.echo("\n".join(lines or ["no faults"]))


def _change(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise ConfigError(
            f"fault: found {text!r}, expected NAME=NUMBER or the word clear; write it "
            "so, as in stage_stuck=1"
        ) from error
