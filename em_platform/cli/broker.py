"""`em-platform broker`: the embedded message broker as a process."""

import click

from em_platform.config import load_settings
from em_platform.processes.logs import setup_logging


@click.command()
@click.option("--host", help="Address to listen at.  [default: broker.host]")
@click.option(
    "--port", type=int, help="Port, 0 for a free one.  [default: broker.port]"
)
def command(host: str | None, port: int | None) -> None:
    """Run the embedded message broker until SIGTERM or Ctrl-C."""
    from em_platform.messaging.broker import Broker
    from em_platform.messaging.service import report_ready, stop_signals

    given = {"broker.host": host, "broker.port": port}
    overrides = {name: str(value) for name, value in given.items() if value is not None}
    all_settings = load_settings(overrides=overrides)
    setup_logging("broker", all_settings)
    settings = all_settings.broker
    with stop_signals() as stop, Broker(settings) as broker:
        click.echo(f"broker listens at {settings.host}:{broker.port}")
        report_ready("broker")
        stop.wait()
