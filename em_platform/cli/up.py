"""`em-platform up`: the whole platform, until Ctrl-C."""

import logging
from contextlib import ExitStack

import click

from em_platform.cli.live import microscope_beside
from em_platform.cli.platform import Platform, running_platform
from em_platform.config import Settings, load_settings


@click.command()
@click.option("--microscope", is_flag=True, help="The live microscope's services, too.")
def command(microscope: bool) -> None:
    """Start the platform: broker, recorder, web UI and daemon; Ctrl-C ends all.

    Each process is started again when it dies. Logs lie under `logs` in the home. A
    web port that is taken is replaced by a free one. A second platform needs a home and
    a broker port of its own: EM_HOME and EM_BROKER__PORT.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = load_settings()
    click.echo("starting broker, recorder, code server, web UI and daemon ...")
    with ExitStack() as stack:
        page = ""
        if microscope:
            beside = stack.enter_context(microscope_beside(settings))
            settings, page = beside.settings, beside.page
            running = running_platform(settings, beside=beside.groups)
        else:
            running = running_platform(settings)
        platform = stack.enter_context(running)
        _say_places(platform, settings, page)
        platform.supervisor.run()
        click.echo("stopping ...")


def _say_places(platform: Platform, asked: Settings, page: str) -> None:
    broker = platform.settings.broker
    wanted, got = asked.web.port, platform.settings.web.port
    if wanted != got:
        click.echo(f"port {wanted} is taken, the web UI is at {got}")
    click.echo(f"web UI    {platform.url}")
    if page:
        click.echo(f"operator  {page}")
    click.echo(f"broker    {broker.host}:{broker.port}")
    click.echo(f"home      {platform.settings.home}")
    click.echo("Ctrl-C ends all")
