"""`em-platform recorder`: what the microscope says, into a durable table."""

import click

from em_platform.config import load_settings
from em_platform.processes.logs import setup_logging
from em_platform.processes.single_instance import claim_home


@click.command()
@click.option(
    "--reconcile-s",
    default=30.0,
    show_default=True,
    help="Seconds between two looks at the frames on disk.",
)
def command(reconcile_s: float) -> None:
    """Record the microscope's events until SIGTERM or Ctrl-C; waits for the broker."""
    from em_platform.acquisition.recorder import run

    settings = load_settings()
    claim_home(settings)
    setup_logging("recorder", settings)
    run(settings, reconcile_s=reconcile_s)
