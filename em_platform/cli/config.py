"""`em-platform config`: every setting and its value."""

import click

from em_platform.config import load_settings


@click.command()
def command() -> None:
    """Show every setting with its value, as JSON; secrets stay hidden."""
    click.echo(load_settings().model_dump_json(indent=2))
