"""`em-platform device`: one simulated device, until Ctrl-C."""

import click

from em_platform.config import load_settings
from em_platform.processes.logs import setup_logging
from em_platform.processes.single_instance import claim_home
from em_platform.simulation.devices import DEVICES, run_device


@click.command()
@click.argument("name", type=click.Choice(list(DEVICES)))
def command(name: str) -> None:
    """Run one simulated device (scope, stage or camera) until Ctrl-C.

    It speaks the topics of TEM_comms, so each can be replaced by a real service. Its
    settings are those of `acquisition.simulation`; it waits for the broker.
    """
    settings = load_settings()
    claim_home(settings)
    setup_logging(name, settings)
    run_device(name, settings)
