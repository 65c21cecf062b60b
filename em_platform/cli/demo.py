"""`em-platform demo`: the main job, once: montages, and data of five public sources."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from em_platform.cli.demo_ingest import ingest_all, world_beside
from em_platform.cli.demo_montages import image_and_stitch
from em_platform.cli.live import microscope_beside, told_to_children
from em_platform.cli.platform import Platform, running_platform
from em_platform.cli.story import Story, short
from em_platform.config import Settings, load_layers
from em_platform.processes import Child, free_port
from em_platform.processes.single_instance import claim_home
from em_platform.storage import store_of

_PROCESSES = ("acquisition", "pipeline", "processes")

Part = Callable[[Platform], bool]
"""Does its work in a running platform; whether all of it is good."""

_ends = click.option("--exit", "ends", is_flag=True, help="End when all is checked.")
_home = click.option(
    "--home", metavar="FOLDER", help="Where all lies (default: demo in home)."
)


_montages = click.option(
    "--montages", default=2, show_default=True, help="How many to image."
)


@click.group(invoke_without_command=True)
@_ends
@_montages
@_home
@click.pass_context
def command(
    context: click.Context, ends: bool, montages: int, home: str | None
) -> None:
    """Image montages and stitch them; bring items of five public sources.

    The microscope is simulated and the sources are stand-ins on this machine. It keeps
    serving until Ctrl-C. With --exit, or without a terminal, it ends: with status 0
    when every montage was imaged, judged and uploaded, and has its mosaic and its
    record, every item has its volume and its record, the catalog is valid, and no check
    of severity ERROR failed. Each call images new montages; items that are there are
    not fetched again.
    """
    if context.invoked_subcommand is not None:
        return
    story = _story("starting the platform and the simulated microscope, 16 processes")
    with world_beside(_settings(home), story) as world:
        both: Sequence[Part] = (
            lambda platform: image_and_stitch(platform, montages, story),
            lambda platform: ingest_all(platform, world, story),
        )
        _run_with_microscope(story, parts=both, ends=ends)


@command.command("montages")
@_ends
@_montages
@_home
def only_montages(ends: bool, montages: int, home: str | None) -> None:
    """Only image montages with the simulated microscope, and stitch them."""
    story = _story("starting the platform and the simulated microscope, 16 processes")
    _settings(home)
    _run_with_microscope(
        story,
        parts=(lambda platform: image_and_stitch(platform, montages, story),),
        ends=ends,
    )


@command.command("ingest")
@_ends
@_home
def only_ingest(ends: bool, home: str | None) -> None:
    """Only bring one item of each of five public sources through Dagster.

    What is there already is not fetched again, and that is counted.
    """
    story = _story("starting the platform and stand-ins of five public sources")
    with world_beside(_settings(home), story) as world:
        _run(
            told_to_children({}),
            story,
            beside=(),
            parts=(lambda platform: ingest_all(platform, world, story),),
            ends=ends,
        )


def _story(first: str) -> Story:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    story = Story()
    story.say(first)
    return story


def _run_with_microscope(story: Story, *, parts: Sequence[Part], ends: bool) -> None:
    with microscope_beside(told_to_children({})) as microscope:
        story.say(f"operator's page at {microscope.page}")
        _run(
            microscope.settings,
            story,
            beside=microscope.groups,
            parts=parts,
            ends=ends,
        )


def _run(
    settings: Settings,
    story: Story,
    *,
    beside: Sequence[Sequence[Child]],
    parts: Sequence[Part],
    ends: bool,
) -> None:
    """Do the parts in a running platform, then end this process with what came out."""
    with running_platform(settings, beside=beside) as platform:
        story.say(f"web UI at {platform.url}")
        outcomes = [part(platform) for part in parts]
        good = all(outcomes)
        story.say("all checks passed" if good else "NOT all is as it should be")
        _say_places(platform, story)
        if not ends and sys.stdout.isatty():
            story.say("serving until Ctrl-C")
            platform.supervisor.run()
        story.say("stopping")
    sys.exit(0 if good else 1)


def _say_places(platform: Platform, story: Story) -> None:
    store = store_of(platform.settings)
    results = store.local_path("")
    for label, text in (
        ("web UI", platform.url),
        ("results", store.root if results is None else short(results)),
        ("logs", short(platform.settings.logs_folder)),
    ):
        story.console.print(f"  {label:<9}{text}", soft_wrap=True, markup=False)


def _settings(home: str | None) -> Settings:
    """The settings, in the demo's own home and with a broker port that is free."""
    layered = load_layers()
    settings = layered.settings
    folder = Path(home) if home else settings.home / "demo"
    claim_home(settings.model_copy(update={"home": folder}))
    wanted = {"home": str(folder.absolute())}
    if settings.broker.embedded:
        free = free_port(settings.broker.host, settings.broker.port)
        wanted["broker.port"] = str(free)
    if layered.layer_of(_PROCESSES) == "default" and (os.cpu_count() or 1) <= 2:
        # Beside Dagster's processes one keeps up with a simulated camera.
        wanted[".".join(_PROCESSES)] = "1"
    return told_to_children(wanted)
