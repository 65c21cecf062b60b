"""`em-platform demo`: montages, public data and a simulation, to checked results."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
from rich.table import Table

from em_platform.acquisition.session.report import LiveReport
from em_platform.acquisition.session.session_log import SessionLog
from em_platform.cli import watch
from em_platform.cli.console_output import ConsoleOutput, print_messages, short
from em_platform.cli.demo_cryoem import process_both
from em_platform.cli.demo_ingest import ingest_all, standins_for
from em_platform.cli.demo_simulation import simulate_one
from em_platform.cli.live import export_settings, microscope_processes
from em_platform.cli.platform import Platform, running_platform
from em_platform.cli.runs import (
    PATIENCE_S,
    PartitionRuns,
    complaints,
    partition_runs,
    progress,
)
from em_platform.config import Settings, load_layers
from em_platform.errors import PlatformError
from em_platform.messaging.bus import Bus
from em_platform.model.sentences import size_of
from em_platform.processes import Child, free_port
from em_platform.processes.single_instance import claim_home
from em_platform.stitching.truth import MATCHES_TRUTH
from em_platform.storage import Store, layout, store_of

_TICK_S = 1.0  # an eye sees no delay; each look asks the web UI for all events
_LAST_ASSET = "acquisition_review"  # comes in a run of its own, after the upload


def image_and_stitch(platform: Platform, montages: int, output: ConsoleOutput) -> bool:
    """Image so many montages and stitch them; whether all of it is there and good."""
    settings = platform.settings
    with Bus(settings.broker, "demo") as bus:
        bus.connect(timeout_s=10)
        followed = watch.begin(bus, settings, watch.regions(settings, montages))
        runs = _follow(platform, followed, output)
        report = followed.report()
    return _show(report, runs, platform, output)


def _follow(
    platform: Platform, followed: SessionLog, output: ConsoleOutput
) -> dict[str, PartitionRuns]:
    """Print what happens until all is finished; acquisition id -> its runs."""
    printed: dict[str, str] = {}
    runs: dict[str, PartitionRuns] = {}
    newest = time.monotonic()
    while not platform.supervisor.stopping.wait(_TICK_S):
        platform.supervisor.tend()
        followed.look()
        lines = list(watch.news(followed.runs, printed))
        for run in followed.runs:
            if run.state == "completed" and run.acquisition_id:
                runs.setdefault(run.acquisition_id, PartitionRuns())
        for key, before in runs.items():
            # What is over is not asked for again: each look reads all events.
            if not _is_over(before):
                runs[key] = partition_runs(platform.url, key)
                lines += progress(key, before, runs[key])
        for line in lines:
            output.line(line)
        if followed.is_settled and all(map(_is_over, runs.values())):
            break
        newest = time.monotonic() if lines else newest
        if time.monotonic() > newest + PATIENCE_S:
            output.line(f"nothing new for {PATIENCE_S:.0f} s; see the web UI")
            break
    return runs


def _is_over(runs: PartitionRuns) -> bool:
    """Whether Dagster has stitched and registered a montage, or has failed."""
    return runs.is_over and (_LAST_ASSET in runs.assets or runs.status != "SUCCESS")


def _show(
    report: LiveReport,
    runs_of: dict[str, PartitionRuns],
    platform: Platform,
    output: ConsoleOutput,
) -> bool:
    """Print what was made; whether all of it is there and good."""
    store = store_of(platform.settings)
    table = Table("montage", "passed QC", "upload", "mosaic", "checks")
    for column in table.columns:
        column.overflow = "fold"  # an ellipsis would cut the key that one has to copy
    good = report.is_good
    for each in report.montages:
        key = each.acquisition_id
        runs = runs_of.get(key, PartitionRuns())
        size = _mosaic_size(store, key)
        there = size is not None and store.exists(layout.dataset_record(key))
        good = good and there and runs.is_good
        table.add_row(
            key or each.montage_id,
            f"{each.passed} of {each.tiles}",
            *("verified" if each.uploaded else "none", size or "none"),
            runs.checks_passed,
        )
    output.console.print(table)
    for line in watch.figures(report):
        output.result(line)
    for key, runs in runs_of.items():
        if MATCHES_TRUTH in runs.checks and runs.checks[MATCHES_TRUTH].passed:
            output.line(f"{key}: {runs.checks[MATCHES_TRUTH].sentence}")
        for line in complaints(runs):
            output.line(f"{key}: {line}")
    for key in runs_of:
        name = layout.mosaic(key)
        local = store.local_path(name)
        there_is = short(local) if local else store.url(name)
        output.line(f"look at it: em-platform view {there_is}")
    return good


def _mosaic_size(store: Store, key: str) -> str | None:
    from em_platform.formats import open_level

    try:
        level = open_level(
            store.url(layout.mosaic(key)), 0, storage_options=store.options
        )
    # No mosaic is a finding of the demo and not its end.
    except PlatformError:
        return None
    return size_of(level.shape)


_PROCESSES = ("acquisition", "pipeline", "processes")
_ALL = "starting the platform and the simulated microscope, 16 processes"

Part = Callable[[Platform], bool]
"""Does its work in a running platform; whether all of it is good."""

_ends = click.option("--exit", "ends", is_flag=True, help="End when all is checked.")
_home = click.option(
    "--home",
    metavar="FOLDER",
    help="Data directory of the demo (default: demo in home).",
)


_montages = click.option(
    "--montages",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="How many to image.",
)


@click.group(invoke_without_command=True)
@_ends
@_montages
@_home
@click.pass_context
def command(
    context: click.Context, ends: bool, montages: int, home: str | None
) -> None:
    """Image montages, fetch items of public sources, simulate a tilt series.

    The microscope is simulated and the sources are stand-ins on this machine. It keeps
    serving until Ctrl-C. With --exit, or without a terminal, it ends: with status 0
    when every montage was imaged, judged and uploaded, and has its mosaic and its
    record, every item has its volume and its record, the tilt series its images and its
    record, the catalog is valid, and no check
    of severity ERROR failed. Each call images new montages; items that are there are
    not fetched again, and the tilt series is kept.
    """
    if context.invoked_subcommand is not None:
        return
    output = _started(_ALL)
    with standins_for(_settings(home), output) as world:
        all_parts: Sequence[Part] = (
            lambda platform: image_and_stitch(platform, montages, output),
            lambda platform: simulate_one(platform, output),
            # Last: it ends with the catalog of all.
            lambda platform: ingest_all(platform, world, output),
        )
        _run_with_microscope(output, parts=all_parts, ends=ends)


@command.command("montages")
@_ends
@_montages
@_home
def only_montages(ends: bool, montages: int, home: str | None) -> None:
    """Only image montages with the simulated microscope, and stitch them."""
    output = _started(_ALL)
    _settings(home)
    _run_with_microscope(
        output,
        parts=(lambda platform: image_and_stitch(platform, montages, output),),
        ends=ends,
    )


@command.command("ingest")
@_ends
@_home
def only_ingest(ends: bool, home: str | None) -> None:
    """Only fetch one item of each of five public sources through Dagster.

    What is there already is not fetched again, and that is counted.
    """
    output = _started("starting the platform and stand-ins of five public sources")
    with standins_for(_settings(home), output) as world:
        _run(
            export_settings({}),
            output,
            beside=(),
            parts=(lambda platform: ingest_all(platform, world, output),),
            ends=ends,
        )


@command.command("simulation")
@_ends
@_home
def only_simulation(ends: bool, home: str | None) -> None:
    """Only simulate a small tilt series through Dagster, and check it by its truth.

    What is there already is kept.
    """
    output = _started("starting the platform")
    _settings(home)
    _run(
        export_settings({}),
        output,
        beside=(),
        parts=(lambda platform: simulate_one(platform, output),),
        ends=ends,
    )


def _none_or(fewest: int) -> Callable[[click.Context, click.Parameter, int], int]:
    def check(_: click.Context, __: click.Parameter, value: int) -> int:
        if 0 < value < fewest:
            raise click.BadParameter(f"{value} is too few, {fewest} or more, or 0")
        return value

    return check


@command.command("cryoem")
@_ends
@_home
@click.option(
    "--movies",
    type=click.IntRange(0),
    callback=_none_or(2),
    default=5,
    show_default=True,
    help="Of single particles, 2 or more; 0 leaves them out.",
)
@click.option(
    "--tilts",
    type=click.IntRange(0),
    callback=_none_or(13),
    default=17,
    show_default=True,
    help="Of the series, from -48 to 48 degrees, 13 or more; 0 leaves it out.",
)
def only_cryoem(ends: bool, home: str | None, movies: int, tilts: int) -> None:
    """Only process simulated movies of cryo-EM, and compare with their truth.

    A session of single particles and one of a small tilt series are put where a
    microscope's sessions arrive, and become micrographs and CTF fits, then picks,
    particles and 2-D classes, or an alignment, a tomogram and pictures. What is there
    already is kept.
    """
    output = _started("starting the platform")
    folder = _settings(home).home
    places = {"sessions": folder / "cryoem", "results": folder / "cryoem_results"}
    wanted = {f"cryoem.{name}": str(place) for name, place in places.items()}
    # Made-up movies must never stand in a site's own ISPyB.
    wanted["cryoem.ispyb_url"] = f"sqlite:///{folder / 'ispyb.sqlite'}"
    _run(
        # The demo's files come at once and whole: nothing has to settle.
        export_settings({**wanted, "cryoem.settle_s": "0", "cryoem.quiet_s": "0"}),
        output,
        beside=(),
        parts=(lambda p: process_both(p, output, movies=movies, tilts=tilts),),
        ends=ends,
    )


def _started(first: str) -> ConsoleOutput:
    print_messages()
    output = ConsoleOutput()
    output.line(first)
    return output


def _run_with_microscope(
    output: ConsoleOutput, *, parts: Sequence[Part], ends: bool
) -> None:
    with microscope_processes(export_settings({})) as microscope:
        output.line(f"operator's page at {microscope.page}")
        _run(
            microscope.settings,
            output,
            beside=microscope.groups,
            page=microscope.page,
            parts=parts,
            ends=ends,
        )


def _run(
    settings: Settings,
    output: ConsoleOutput,
    *,
    beside: Sequence[Sequence[Child]],
    page: str = "",
    parts: Sequence[Part],
    ends: bool,
) -> None:
    """Do the parts in a running platform, then end this process with what came out."""
    with running_platform(
        settings,
        beside=beside,
        on_ready=lambda name: output.line(f"  {name} is ready"),
    ) as platform:
        output.line(f"web UI at {platform.url}")
        # A list, so that all are done, also after one that is not good.
        outcomes = [part(platform) for part in parts]
        good = all(outcomes)
        output.result("all checks passed" if good else "some parts failed, see above")
        _print_places(platform, output)
        # Without a terminal there is nobody to press Ctrl-C.
        if not ends and sys.stdout.isatty():
            # Last, to be found at the end; an address that stops serving helps nobody.
            _print_lines(output, {"web UI": platform.url, "operator's page": page})
            output.line("serving until Ctrl-C")
            platform.supervisor.run()
        output.line("stopping")
    # Behind the block: all processes have ended by now.
    sys.exit(0 if good else 1)


def _print_places(platform: Platform, output: ConsoleOutput) -> None:
    store = store_of(platform.settings)
    results = store.local_path("")
    home = short(platform.settings.home)
    search = f"EM_HOME={home} em-platform catalog search 'voxel<10'"
    places = {
        "results": store.root if results is None else short(results),
        "logs": short(platform.settings.logs_folder),
        "search": search,
    }
    _print_lines(output, places)


def _print_lines(output: ConsoleOutput, lines: Mapping[str, str]) -> None:
    for label, text in lines.items():
        if text:
            line = f"  {label:<17}{text}"
            output.console.print(line, soft_wrap=True, markup=False)


def _settings(home: str | None) -> Settings:
    """The settings, in the demo's own home and with a broker port that is free."""
    layered = load_layers()
    settings = layered.settings
    folder = Path(home) if home else settings.home / "demo"
    # Before anything is written there: it may be a folder with other files.
    claim_home(settings.model_copy(update={"home": folder}))
    wanted = {"home": str(folder.absolute())}
    if settings.broker.embedded:
        free = free_port(settings.broker.host, settings.broker.port)
        wanted["broker.port"] = str(free)
    if layered.layer_of(_PROCESSES) == "default" and (os.cpu_count() or 1) <= 2:
        # Beside Dagster's processes one keeps up with a simulated camera.
        wanted[".".join(_PROCESSES)] = "1"
    return export_settings(wanted)
