"""`em-platform service`: one service of the live microscope, until Ctrl-C."""

import importlib

import click

from em_platform.config import load_settings
from em_platform.processes.logs import setup_logging
from em_platform.processes.single_instance import claim_home

SERVICES = {
    "coordinator": "em_platform.acquisition.coordinator",
    "pipeline": "em_platform.acquisition.pipeline",
    "qc": "em_platform.acquisition.qc",
    "montage_fit": "em_platform.acquisition.montage_fit",
    "buffer": "em_platform.acquisition.buffer",
    "operator": "em_platform.operator",
    "aloha": "em_platform.aloha",
    "temdb": "em_platform.temdb",
}
"""Service -> the module whose `run(settings, name=...)` serves until it is to end."""


@click.command()
@click.argument("service", type=click.Choice(list(SERVICES)))
@click.option("--name", help="Of this process, where there are several of one service.")
def command(service: str, name: str | None) -> None:
    """Run one service of the microscope until SIGTERM or Ctrl-C.

    Each can be replaced by a real one that speaks the same topics. It waits for the
    broker, and says `ready <name>` when it serves.
    """
    settings = load_settings()
    claim_home(settings)
    setup_logging(name or service, settings)
    module = importlib.import_module(SERVICES[service])
    module.run(settings, name=name or service)
