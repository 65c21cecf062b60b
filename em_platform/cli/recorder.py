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
    from em_platform.acquisition.frame_paths import frames_folder
    from em_platform.acquisition.recorder import recorder_of
    from em_platform.acquisition.recorder_service import RecorderService
    from em_platform.messaging.service import run_service

    settings = load_settings()
    claim_home(settings)
    setup_logging("recorder", settings)
    frames = frames_folder(settings)
    with recorder_of(settings) as recorder:
        run_service(
            "recorder",
            settings.broker,
            setup=lambda bus: RecorderService(
                bus, recorder, frames=frames, reconcile_s=reconcile_s
            ),
        )
