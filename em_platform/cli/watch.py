"""Gives the microscope montages to image, and watches until all of them are safe."""

import time
from collections.abc import Callable, Iterator, Sequence

from rich.table import Table

from em_platform.acquisition.roi import RoiFields, roi_of
from em_platform.acquisition.session.montage_request import (
    existing_ids,
    first_number,
    frame_of,
    montage_name,
    queue_of,
    request_montage,
    unfinished,
)
from em_platform.acquisition.session.report import LiveReport, MontageRun
from em_platform.acquisition.session.session_log import SessionLog
from em_platform.cli.console_output import ConsoleOutput
from em_platform.config import Settings
from em_platform.messaging.bus import Bus
from em_platform.model import Size
from em_platform.model.sentences import counted

LOOK_S = 0.5  # a montage of 16 tiles takes some seconds, a person reads no faster


def regions(
    settings: Settings, count: int, *, first: int = 1, frame: Size | None = None
) -> list[RoiFields]:
    """Bodies of `roi.create`: montage n is a raster about the middle of aperture n.

    `frame` is the size of the camera's frames; None for that of the settings.
    """
    acquisition = settings.acquisition
    return [
        roi_of(
            montage_name(number),
            _aperture(number, settings),
            acquisition.rows,
            acquisition.columns,
            acquisition.overlap,
            settings,
            frame=frame,
        )
        for number in range(first, first + count)
    ]


def _aperture(number: int, settings: Settings) -> int:
    """That of the same number; a simulated tape begins anew behind its last one."""
    acquisition = settings.acquisition
    last = acquisition.simulation.apertures - 1
    if not acquisition.simulated or last < 1:
        return number
    return 1 + (number - 1) % last


def new_regions(
    bus: Bus, settings: Settings, count: int, *, first: int | None
) -> list[RoiFields]:
    """Regions with ids that nothing has yet; the first number that is free, or `first`.

    Raises
    ------
    AcquisitionError
        `first` is given, and a montage of that number exists.
    """
    existing = existing_ids(queue_of(bus), settings)
    number = first_number(first, count, existing=existing)
    return regions(settings, count, first=number, frame=frame_of(bus))


def begin(bus: Bus, settings: Settings, wanted: Sequence[RoiFields]) -> SessionLog:
    """Queue these regions and start; gives what is received from now on.

    Montages that were begun, or wait, are imaged first, and followed as well.

    Raises
    ------
    AcquisitionError
        The coordinator refuses a region.
    NoAnswer
        It does not answer.
    """
    queue = queue_of(bus)
    names = [region["montage_id"] for region in wanted]
    # Before the requests: it gets only what is sent from now on.
    followed = SessionLog(bus, settings, [*unfinished(queue), *names], queue=queue)
    for region in wanted:
        request_montage(bus, region)
    bus.publish("ui.run", start=True)
    bus.flush()
    return followed


def follow(
    followed: SessionLog,
    output: ConsoleOutput,
    *,
    tend: Callable[[], None],
    stopped: Callable[[], bool],
) -> LiveReport:
    """Print what happens until all is settled, or nothing happens any more.

    `tend` is called again and again; when `stopped` it ends early.
    """
    printed: dict[str, str] = {}
    while not followed.is_settled:
        time.sleep(LOOK_S)
        tend()
        followed.look()
        for line in news(followed.runs, printed):
            output.line(line)
        output.status(_progress(followed.runs))
        if stopped() or _is_given_up(followed, output):
            break
    for line in news(followed.runs, printed):
        output.line(line)
    return followed.report()


def _is_given_up(followed: SessionLog, output: ConsoleOutput) -> bool:
    """Whether what is waited for will not come; prints what that is.

    A pause is ended by the operator, who may take as long as they like.
    """
    if followed.is_settled or any(run.state == "paused" for run in followed.runs):
        return False
    # No limit over all: a montage of thousands of tiles may take hours.
    quiet_s, wait = time.monotonic() - followed.quiet_since_s, followed.waits_for()
    if quiet_s <= wait.limit_s:
        return False
    blocked = followed.blocked()
    output.line(
        f"no news for {quiet_s:.0f} s while waiting for {wait.what}, expected within "
        f"{wait.limit_s:.0f} s; {blocked or f'see {wait.see}'}"
    )
    return True


def table(report: LiveReport) -> Table:
    """The montages of a session, a line each."""
    made = Table("montage", "tiles", "state", "passed QC", "upload", "seconds")
    for column in made.columns:
        column.overflow = "fold"  # an ellipsis would cut the key that one has to copy
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
    incomplete = sum(bool(each.missing) for each in report.montages)
    lacking = f", {counted(incomplete, 'montage')} incomplete" if incomplete else ""
    yield (
        f"{counted(report.tiles_imaged, 'tile')}, {report.tiles_lost} lost"
        f"{lacking}; "
        f"{report.tiles_per_s:.2f} tiles/s "
        f"(published for TEMCA2: {real.tiles_per_s:g}), "
        f"{report.mpix_per_s:.1f} Mpix/s (TEMCA2: {real.mpix_per_s:g}), "
        f"{report.mpix_per_s_per_core:.1f} Mpix/s per core"
    )
    if report.verdict_p50_ms is not None:
        yield (
            f"from frame to verdict: median {report.verdict_p50_ms:.0f} ms, "
            f"99 % {report.verdict_p99_ms:.0f} ms"
        )
    if report.stop_ms is not None:
        yield f"the stage was stopped after {report.stop_ms:.0f} ms"
    for each in report.montages:
        if each.repeats:
            yield (
                f"{each.acquisition_id}: {each.repeats} messages came again unchanged "
                "after a service was restarted; they count once"
            )
        if not each.is_good:
            yield (
                f"{each.acquisition_id or each.montage_id}: {each.state}, "
                f"{each.lost} tiles lost, {each.unjudged} without a verdict, "
                f"{each.duplicates} contradicting messages, "
                f"{'uploaded' if each.uploaded else 'not uploaded'}"
                f"{'; ' + each.reason if each.reason else ''}"
                f"{'; ' + each.missing if each.missing else ''}"
            )


def news(runs: Sequence[MontageRun], printed: dict[str, str]) -> Iterator[str]:
    """A line for each montage of which something has changed since `printed`."""
    for run in runs:
        state = run.state + (" and uploaded" if run.uploaded else "")
        # A tile more is no news: the status line shows it.
        if state in ("", "in_progress") or printed.get(run.montage_id) == state:
            continue
        printed[run.montage_id] = state
        name = run.acquisition_id or run.montage_id
        line = f"{name}: {state}"
        if run.state != "started":
            imaged = run.imaged or len(run.tiles)
            line += f", {imaged} of {run.total} tiles, {run.judged} judged"
        yield f"{line}; {run.reason}" if run.reason else line


def _progress(runs: Sequence[MontageRun]) -> str:
    if not runs:
        return "waiting for the first montage"
    run = runs[-1]
    return (
        f"{run.acquisition_id or run.montage_id}: tile {run.imaged} of {run.total},"
        f" {run.judged} judged"
    )
