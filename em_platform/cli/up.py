"""`em-platform up`: the whole platform, until Ctrl-C."""

import logging

import click

from em_platform.cli.platform import running_platform
from em_platform.config import load_settings


@click.command()
def command() -> None:
    """Start the platform: broker, recorder, web UI and daemon; Ctrl-C ends all.

    Each process is started again when it dies. Logs lie under `logs` in the home. A
    web port that is taken is replaced by a free one. A second platform needs a home and
    a broker port of its own: EM_HOME and EM_BROKER__PORT.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = load_settings()
    click.echo("starting broker, recorder, code server, web UI and daemon ...")
    with running_platform(settings) as platform:
        broker = platform.settings.broker
        wanted, got = settings.web.port, platform.settings.web.port
        if wanted != got:
            click.echo(f"port {wanted} is taken, the web UI is at {got}")
        click.echo(f"web UI    {platform.url}")
        click.echo(f"broker    {broker.host}:{broker.port}")
        click.echo(f"home      {platform.settings.home}")
        click.echo("Ctrl-C ends all")
        platform.supervisor.run()
        click.echo("stopping ...")
