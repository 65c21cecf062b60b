"""Gives the microscope montages to image, and watches until all of them are safe."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.table import Table

from em_platform.acquisition.heard import Heard
from em_platform.acquisition.report import LiveReport, MontageHeard
from em_platform.acquisition.roi import roi_of
from em_platform.cli.story import Story
from em_platform.config import Settings
from em_platform.messaging.bus import Bus

LOOK_S = 0.5
PATIENCE_S = 120.0
"""A session of which nothing is heard for so long is given up."""


def regions(settings: Settings, count: int, *, first: int = 1) -> list[dict[str, Any]]:
    """Bodies of `roi.create`: montage n is a raster about the middle of aperture n."""
    acquisition = settings.acquisition
    return [
        roi_of(
            f"m-{number:04d}",
            number,
            acquisition.rows,
            acquisition.columns,
            acquisition.overlap,
            settings,
        )
        for number in range(first, first + count)
    ]


def begin(bus: Bus, settings: Settings, wanted: Sequence[dict[str, Any]]) -> Heard:
    """Queue these regions and start; gives what is heard from now on."""
    heard = Heard(bus, settings, [region["montage_id"] for region in wanted])
    for region in wanted:
        bus.publish("roi.create", **region)
    bus.publish("ui.run", start=True)
    bus.flush()
    return heard


def follow(
    heard: Heard, story: Story, *, tend: Callable[[], None], stopped: Callable[[], bool]
) -> LiveReport:
    """Tell what happens until all is settled, or nothing happens any more.

    `tend` is called again and again; when `stopped` it ends early.
    """
    told: dict[str, str] = {}
    while not heard.is_settled:
        time.sleep(LOOK_S)
        tend()
        heard.look()
        for line in news(heard.runs, told):
            story.say(line)
        story.show(_progress(heard.runs))
        quiet_s = time.monotonic() - heard.quiet_since_s
        if stopped():
            break
        if quiet_s > PATIENCE_S and not any(r.state == "paused" for r in heard.runs):
            story.say(f"nothing was heard of the session for {quiet_s:.0f} s, given up")
            break
    for line in news(heard.runs, told):
        story.say(line)
    return heard.report()


def table(report: LiveReport) -> Table:
    """The montages of a session, a line each."""
    made = Table("montage", "tiles", "state", "passed QC", "upload", "seconds")
    for column in made.columns:
        column.no_wrap = True
    for each in report.montages:
        made.add_row(
            each.acquisition_id or each.montage_id,
            str(each.tiles),
            each.state,
            f"{each.passed} of {each.tiles}",
            "verified" if each.uploaded else "none",
            f"{each.seconds:.1f}",
        )
    return made


def figures(report: LiveReport) -> Iterator[str]:
    """How fast it was, beside a real microscope; and what is wrong."""
    real = report.published
    yield (
        f"{report.tiles_imaged} tiles, {report.tiles_lost} lost; "
        f"{report.tiles_per_s:.2f} tiles/s (a real microscope: {real.tiles_per_s:g}), "
        f"{report.mpix_per_s:.1f} Mpix/s (real: {real.mpix_per_s:g}), "
        f"{report.mpix_per_s_per_core:.1f} Mpix/s per core"
    )
    if report.verdict_p50_ms is not None:
        yield (
            f"from frame to verdict: median {report.verdict_p50_ms:.0f} ms, "
            f"99 % {report.verdict_p99_ms:.0f} ms"
        )
    if report.stop_ms is not None:
        yield f"the stage was told to stop after {report.stop_ms:.0f} ms"
    for each in report.montages:
        if not each.is_good:
            yield (
                f"{each.acquisition_id or each.montage_id}: {each.state}, "
                f"{each.lost} tiles lost, {each.unjudged} without a verdict, "
                f"{each.duplicates} messages too many, "
                f"{'uploaded' if each.uploaded else 'not uploaded'}"
                f"{'; ' + each.reason if each.reason else ''}"
            )


def news(runs: Sequence[MontageHeard], told: dict[str, str]) -> Iterator[str]:
    """A line for each montage of which something has changed since `told`."""
    for run in runs:
        state = run.state + (" and uploaded" if run.uploaded else "")
        if state in ("", "in_progress") or told.get(run.montage_id) == state:
            continue
        told[run.montage_id] = state
        name = run.acquisition_id or run.montage_id
        line = f"{name}: {state}"
        if run.state != "started":
            line += f", {len(run.tiles)} of {run.total} tiles, {run.judged} judged"
        yield f"{line}; {run.reason}" if run.reason else line


def _progress(runs: Sequence[MontageHeard]) -> str:
    if not runs:
        return "waiting for the first montage"
    run = runs[-1]
    return (
        f"{run.acquisition_id or run.montage_id}: tile {len(run.tiles)} of {run.total},"
        f" {run.judged} judged"
    )
