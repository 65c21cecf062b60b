"""One process of the microscope or of the platform in this terminal, until Ctrl-C."""

import importlib

import click

from em_platform.config import load_settings
from em_platform.processes.logs import setup_logging
from em_platform.processes.single_instance import claim_home
from em_platform.simulation.devices import DEVICES, run_device


@click.command("broker")
@click.option("--host", help="Address to listen at.  [default: broker.host]")
@click.option(
    "--port", type=int, help="Port, 0 for a free one.  [default: broker.port]"
)
def broker(host: str | None, port: int | None) -> None:
    """Run the embedded message broker until SIGTERM or Ctrl-C."""
    from em_platform.messaging.broker import Broker
    from em_platform.messaging.service import report_ready, stop_signals

    given = {"broker.host": host, "broker.port": port}
    overrides = {name: str(value) for name, value in given.items() if value is not None}
    # Our own it is here, also where the clients' settings call it one of others.
    overrides["broker.embedded"] = "true"
    all_settings = load_settings(overrides=overrides)
    claim_home(all_settings)  # its token is kept there
    setup_logging("broker", all_settings)
    settings = all_settings.broker
    with stop_signals() as stop, Broker(settings) as broker:
        click.echo(f"broker listens at {settings.host}:{broker.port}")
        report_ready("broker")
        stop.wait()


@click.command("recorder")
@click.option(
    "--reconcile-s",
    default=30.0,
    show_default=True,
    help="Seconds between two scans of the frames on disk.",
)
def recorder(reconcile_s: float) -> None:
    """Record the microscope's events until SIGTERM or Ctrl-C; waits for the broker."""
    from em_platform.acquisition.recorder import run

    settings = load_settings()
    claim_home(settings)
    setup_logging("recorder", settings)
    run(settings, reconcile_s=reconcile_s)


@click.command("device")
@click.argument("name", type=click.Choice(list(DEVICES)))
def device(name: str) -> None:
    """Run one simulated device until Ctrl-C.

    It speaks the topics of TEM_comms, so each can be replaced by a real service. Its
    settings are those of `acquisition.simulation`; it waits for the broker.
    """
    settings = load_settings()
    claim_home(settings)
    setup_logging(name, settings)
    run_device(name, settings)


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


@click.command("service")
@click.argument("service", type=click.Choice(list(SERVICES)))
@click.option("--name", help="Of this process, where there are several of one service.")
def service(service: str, name: str | None) -> None:
    """Run one service of the microscope until SIGTERM or Ctrl-C.

    Each can be replaced by a real one that speaks the same topics. It waits for the
    broker, and prints `ready <name>` when it serves.
    """
    settings = load_settings()
    claim_home(settings)
    # Of several of one service each has a log of its own.
    setup_logging(name or service, settings)
    # Only this one: each process is as small as what it does.
    module = importlib.import_module(SERVICES[service])
    module.run(settings, name=name or service)
