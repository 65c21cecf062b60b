"""`em-platform demo`: the main job, from a simulated microscope to checked mosaics."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.table import Table

from em_platform.acquisition.heard import Heard
from em_platform.acquisition.report import LiveReport
from em_platform.cli import watch
from em_platform.cli.live import microscope_beside, told_to_children
from em_platform.cli.platform import Platform, running_platform
from em_platform.cli.runs import MontageRuns, montage_runs
from em_platform.cli.story import Story, short
from em_platform.config import Settings, load_layers
from em_platform.errors import PlatformError
from em_platform.messaging.bus import Bus
from em_platform.processes import free_port
from em_platform.storage import Store, layout, store_of

_PATIENCE_S = 600.0
_TICK_S = 0.5
_LAST_ASSET = "acquisition_review"
_PROCESSES = ("acquisition", "pipeline", "processes")


@click.command()
@click.option("--exit", "ends", is_flag=True, help="End when all is checked.")
@click.option("--montages", default=2, show_default=True, help="How many to image.")
@click.option(
    "--home", metavar="FOLDER", help="Where all lies (default: demo in home)."
)
def command(montages: int, ends: bool, home: str | None) -> None:
    """Image montages with the live microscope and stitch them in Dagster.

    It keeps serving until Ctrl-C. With --exit, or without a terminal, it ends: with
    status 0 when every montage was imaged, judged and uploaded, and has its mosaic, its
    record, and no failed check of severity ERROR. Each call images new montages;
    earlier ones stay.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    story = Story()
    story.say("starting the platform and the simulated microscope, 16 processes")
    with microscope_beside(_settings(home)) as microscope:
        running = running_platform(microscope.settings, beside=microscope.groups)
        with running as platform:
            story.say(f"web UI at {platform.url}")
            story.say(f"operator's page at {microscope.page}")
            session = _session(platform, montages, story)
            good = _show(session, montages, platform, story)
            if not ends and sys.stdout.isatty():
                story.say("serving until Ctrl-C")
                platform.supervisor.run()
            story.say("stopping")
    sys.exit(0 if good else 1)


@dataclass(slots=True)
class _Session:
    """What became of the montages, on the microscope and in Dagster."""

    report: LiveReport
    runs: dict[str, MontageRuns] = field(default_factory=dict)


def _session(platform: Platform, montages: int, story: Story) -> _Session:
    """Image, and tell what happens until all is finished."""
    settings = platform.settings
    with Bus(settings.broker, "demo") as bus:
        bus.connect(timeout_s=10)
        heard = watch.begin(bus, settings, watch.regions(settings, montages))
        runs = _follow(platform, heard, story)
        return _Session(heard.report(), runs)


def _follow(platform: Platform, heard: Heard, story: Story) -> dict[str, MontageRuns]:
    """Tell what happens until all is finished; acquisition id -> its runs."""
    told: dict[str, str] = {}
    runs: dict[str, MontageRuns] = {}
    deadline = time.monotonic() + _PATIENCE_S
    while not platform.supervisor.stopping.wait(_TICK_S):
        platform.supervisor.tend()
        heard.look()
        for line in watch.news(heard.runs, told):
            story.say(line)
        for run in heard.runs:
            if run.state == "completed" and run.acquisition_id:
                runs.setdefault(run.acquisition_id, MontageRuns())
        for key, before in runs.items():
            if not _is_over(before):
                runs[key] = montage_runs(platform.url, key)
                _say_progress(key, before, runs[key], story)
        if heard.is_settled and all(map(_is_over, runs.values())):
            break
        if time.monotonic() > deadline:
            story.say(f"not finished after {_PATIENCE_S:.0f} s; see the web UI")
            break
    return runs


def _is_over(runs: MontageRuns) -> bool:
    """Whether Dagster has stitched a montage and told TEM DB, or has failed."""
    return runs.is_over and (_LAST_ASSET in runs.assets or runs.status != "SUCCESS")


def _say_progress(
    key: str, before: MontageRuns, now: MontageRuns, story: Story
) -> None:
    if now.status != before.status:
        story.say(f"{key}: run {now.status.lower().replace('_', ' ')}")
    for asset in now.assets[len(before.assets) :]:
        story.say(f"{key}:   {asset}")
    for failure in now.failures[len(before.failures) :]:
        story.say(f"{key}:   {failure}")


def _show(session: _Session, montages: int, platform: Platform, story: Story) -> bool:
    """Print what was made; whether all of it is there and good."""
    store = store_of(platform.settings)
    table = Table("montage", "passed QC", "upload", "mosaic (px)", "checks")
    for column in table.columns:
        column.no_wrap = True
    report = session.report
    good = report.is_good and len(report.montages) == montages
    for each in report.montages:
        key = each.acquisition_id
        runs = session.runs.get(key, MontageRuns())
        size = _mosaic_size(store, key)
        there = size is not None and store.exists(layout.dataset_record(key))
        good = good and there and runs.is_good
        passed = sum(check.passed for check in runs.checks.values())
        table.add_row(
            key or each.montage_id,
            f"{each.passed} of {each.tiles}",
            *("verified" if each.uploaded else "none", size or "none"),
            f"{passed} of {len(runs.checks)}",
        )
    story.console.print(table)
    for line in watch.figures(report):
        story.say(line)
    for key, runs in session.runs.items():
        for line in _wrong(runs):
            story.say(f"{key}: {line}")
    story.say("all checks passed" if good else "NOT all is as it should be")
    for label, text in _places(session, platform, store):
        story.console.print(f"  {label:<9}{text}", soft_wrap=True, markup=False)
    return good


def _wrong(runs: MontageRuns) -> Iterator[str]:
    for check in runs.checks.values():
        if not check.passed:
            yield f"{'ERROR' if check.is_error else 'warning'}: {check.sentence}"


def _places(
    session: _Session, platform: Platform, store: Store
) -> Iterator[tuple[str, str]]:
    yield "web UI", platform.url
    results = store.local_path("")
    yield "results", store.root if results is None else short(results)
    yield "logs", short(platform.settings.logs_folder)
    for key in session.runs:
        name = layout.mosaic(key)
        local = store.local_path(name)
        yield "view", f"em-platform view {short(local) if local else store.url(name)}"


def _mosaic_size(store: Store, key: str) -> str | None:
    from em_platform.formats.ome_zarr import open_level

    try:
        level = open_level(
            store.url(layout.mosaic(key)), 0, storage_options=store.options
        )
    except PlatformError:
        return None
    return f"{level.shape[1]} x {level.shape[0]}"


def _settings(home: str | None) -> Settings:
    """The settings, in the demo's own home and with a broker port that is free."""
    layered = load_layers()
    settings = layered.settings
    folder = Path(home) if home else settings.home / "demo"
    wanted = {"home": str(folder.absolute())}
    if settings.broker.embedded:
        free = free_port(settings.broker.host, settings.broker.port)
        wanted["broker.port"] = str(free)
    if layered.layer_of(_PROCESSES) == "default" and (os.cpu_count() or 1) <= 2:
        # Beside Dagster's processes one keeps up with a simulated camera.
        wanted[".".join(_PROCESSES)] = "1"
    return told_to_children(wanted)
