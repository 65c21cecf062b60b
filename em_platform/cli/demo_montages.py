"""The demo's montages: from a simulated microscope to checked mosaics."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.table import Table

from em_platform.acquisition.heard import Heard
from em_platform.acquisition.report import LiveReport
from em_platform.cli import watch
from em_platform.cli.platform import Platform
from em_platform.cli.runs import PartitionRuns, montage_runs
from em_platform.cli.story import Story, short
from em_platform.errors import PlatformError
from em_platform.messaging.bus import Bus
from em_platform.storage import Store, layout, store_of

_PATIENCE_S = 600.0
_TICK_S = 0.5
_LAST_ASSET = "acquisition_review"


def image_and_stitch(platform: Platform, montages: int, story: Story) -> bool:
    """Image so many montages and stitch them; whether all of it is there and good."""
    session = _session(platform, montages, story)
    return _show(session, montages, platform, story)


@dataclass(slots=True)
class _Session:
    """What became of the montages, on the microscope and in Dagster."""

    report: LiveReport
    runs: dict[str, PartitionRuns] = field(default_factory=dict)


def _session(platform: Platform, montages: int, story: Story) -> _Session:
    """Image, and tell what happens until all is finished."""
    settings = platform.settings
    with Bus(settings.broker, "demo") as bus:
        bus.connect(timeout_s=10)
        heard = watch.begin(bus, settings, watch.regions(settings, montages))
        runs = _follow(platform, heard, story)
        return _Session(heard.report(), runs)


def _follow(platform: Platform, heard: Heard, story: Story) -> dict[str, PartitionRuns]:
    """Tell what happens until all is finished; acquisition id -> its runs."""
    told: dict[str, str] = {}
    runs: dict[str, PartitionRuns] = {}
    deadline = time.monotonic() + _PATIENCE_S
    while not platform.supervisor.stopping.wait(_TICK_S):
        platform.supervisor.tend()
        heard.look()
        for line in watch.news(heard.runs, told):
            story.say(line)
        for run in heard.runs:
            if run.state == "completed" and run.acquisition_id:
                runs.setdefault(run.acquisition_id, PartitionRuns())
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


def _is_over(runs: PartitionRuns) -> bool:
    """Whether Dagster has stitched a montage and told TEM DB, or has failed."""
    return runs.is_over and (_LAST_ASSET in runs.assets or runs.status != "SUCCESS")


def _say_progress(
    key: str, before: PartitionRuns, now: PartitionRuns, story: Story
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
    good = report.is_good
    for each in report.montages:
        key = each.acquisition_id
        runs = session.runs.get(key, PartitionRuns())
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
    for key in session.runs:
        name = layout.mosaic(key)
        local = store.local_path(name)
        there_is = short(local) if local else store.url(name)
        story.say(f"look at it: em-platform view {there_is}")
    return good


def _wrong(runs: PartitionRuns) -> Iterator[str]:
    for check in runs.checks.values():
        if not check.passed:
            yield f"{'ERROR' if check.is_error else 'warning'}: {check.sentence}"


def _mosaic_size(store: Store, key: str) -> str | None:
    from em_platform.formats import open_level

    try:
        level = open_level(
            store.url(layout.mosaic(key)), 0, storage_options=store.options
        )
    except PlatformError:
        return None
    return f"{level.shape[1]} x {level.shape[0]}"
