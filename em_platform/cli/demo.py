"""`em-platform demo`: the main job, from a simulated microscope to checked mosaics."""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.instrument import Instrument
from em_platform.acquisition.raster import MontagePlan
from em_platform.acquisition.rig import device_children
from em_platform.acquisition.session import Imaged, Session
from em_platform.cli.platform import Platform, running_platform
from em_platform.cli.runs import MontageRuns, montage_runs
from em_platform.config import Settings, export, load_settings
from em_platform.errors import PlatformError
from em_platform.messaging.bus import Bus
from em_platform.processes import free_port
from em_platform.storage import Store, layout, store_of

_PATIENCE_S = 600.0
_TICK_S = 1.0


@click.command()
@click.option("--exit", "ends", is_flag=True, help="End when all is checked.")
@click.option("--montages", default=2, show_default=True, help="How many to image.")
@click.option(
    "--home", metavar="FOLDER", help="Where all lies (default: demo in home)."
)
def command(montages: int, ends: bool, home: str | None) -> None:
    """Image montages with a simulated microscope and stitch them in Dagster.

    It keeps serving until Ctrl-C. With --exit, or without a terminal, it ends: with
    status 0 when every montage has its mosaic, its record, and no failed check of
    severity ERROR. Each call images new montages; earlier ones stay.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    story = _Story()
    story.say("starting broker, recorder, microscope, code server, web UI and daemon")
    settings = _settings(home)
    with running_platform(settings, beside=device_children()) as platform:
        story.say(f"web UI at {platform.url}")
        finished = _follow(platform, _Imaging(platform.settings, montages), story)
        good = _show(finished, montages, platform, story)
        if not ends and sys.stdout.isatty():
            story.say("serving until Ctrl-C")
            platform.supervisor.run()
        story.say("stopping")
    sys.exit(0 if good else 1)


@dataclass(slots=True)
class _Story:
    """Lines of progress, each with the seconds since the start."""

    console: Console = field(default_factory=lambda: Console(highlight=False))
    begun_s: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        seconds = time.monotonic() - self.begun_s
        self.console.print(f"{seconds:6.1f} s  {line}", soft_wrap=True, markup=False)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun_s


class _Imaging(threading.Thread):
    """Images the montages while the main thread looks after the processes."""

    def __init__(self, settings: Settings, montages: int) -> None:
        super().__init__(name="imaging", daemon=True)
        self.made: list[Imaged] = []
        self.error: PlatformError | None = None
        self._settings = settings
        self._montages = montages

    def run(self) -> None:
        try:
            self._image()
        except PlatformError as error:
            self.error = error

    def _image(self) -> None:
        acquisition = self._settings.acquisition
        with Bus(self._settings.broker, "demo") as bus:
            bus.connect(timeout_s=10)
            session = Session(
                Instrument(bus, acquisition),
                acquisition,
                frames=frames_folder(self._settings),
            )
            plans = [self._plan(number) for number in range(1, self._montages + 1)]
            for imaged in session.image(plans):
                self.made.append(imaged)
            bus.flush()

    def _plan(self, number: int) -> MontagePlan:
        acquisition = self._settings.acquisition
        return MontagePlan(
            montage_id=f"m-{number:04d}",
            aperture_id=number,
            rows=acquisition.rows,
            columns=acquisition.columns,
            overlap=acquisition.overlap,
        )


def _follow(
    platform: Platform, imaging: _Imaging, story: _Story
) -> dict[str, tuple[Imaged, MontageRuns]]:
    """Tell what happens until all montages are finished; acquisition id -> outcome."""
    imaging.start()
    followed: dict[str, tuple[Imaged, MontageRuns]] = {}
    deadline = time.monotonic() + _PATIENCE_S
    while not platform.supervisor.stopping.wait(_TICK_S):
        platform.supervisor.tend()
        for imaged in imaging.made[len(followed) :]:
            _say_imaged(imaged, story)
            followed[imaged.acquisition_id] = (imaged, MontageRuns())
        for key, (imaged, before) in followed.items():
            if not before.is_over:
                now = montage_runs(platform.url, key)
                _say_progress(key, before, now, story)
                followed[key] = (imaged, now)
        over = all(runs.is_over for _, runs in followed.values())
        if not imaging.is_alive() and len(followed) == len(imaging.made) and over:
            break
        if time.monotonic() > deadline:
            story.say(f"not finished after {_PATIENCE_S:.0f} s; see the web UI")
            break
    if imaging.error is not None:
        story.say(str(imaging.error))
    return followed


def _say_imaged(imaged: Imaged, story: _Story) -> None:
    story.say(
        f"{imaged.acquisition_id}: imaged, {imaged.tiles} tiles of "
        f"{imaged.size.width_px} x {imaged.size.height_px} px in {imaged.seconds:.1f} s"
    )


def _say_progress(
    key: str, before: MontageRuns, now: MontageRuns, story: _Story
) -> None:
    if now.status != before.status:
        story.say(f"{key}: run {now.status.lower().replace('_', ' ')}")
    for asset in now.assets[len(before.assets) :]:
        story.say(f"{key}:   {asset}")
    for failure in now.failures[len(before.failures) :]:
        story.say(f"{key}:   {failure}")


def _show(
    finished: dict[str, tuple[Imaged, MontageRuns]],
    montages: int,
    platform: Platform,
    story: _Story,
) -> bool:
    """Print what was made; whether all of it is there and good."""
    store = store_of(platform.settings)
    table = Table("montage", "tiles", "mosaic (px)", "passed", "imaged", "stitched")
    for column in table.columns:
        column.no_wrap = True
    good = len(finished) == montages
    for key, (imaged, runs) in finished.items():
        size = _mosaic_size(store, key)
        there = size is not None and store.exists(layout.dataset_record(key))
        good = good and there and runs.is_good
        passed = sum(check.passed for check in runs.checks.values())
        table.add_row(
            *(key, str(imaged.tiles), size or "none"),
            f"{passed} of {len(runs.checks)}",
            *(f"{imaged.seconds:.1f} s", f"{runs.seconds:.1f} s"),
        )
    story.console.print(table)
    for key, (_, runs) in finished.items():
        for line in _wrong(runs):
            story.say(f"{key}: {line}")
    story.say("all checks passed" if good else "NOT all is as it should be")
    for label, text in _places(finished, platform, store):
        story.console.print(f"  {label:<9}{text}", soft_wrap=True, markup=False)
    return good


def _wrong(runs: MontageRuns) -> Iterator[str]:
    for check in runs.checks.values():
        if not check.passed:
            yield f"{'ERROR' if check.is_error else 'warning'}: {check.sentence}"


def _places(
    finished: dict[str, tuple[Imaged, MontageRuns]], platform: Platform, store: Store
) -> Iterator[tuple[str, str]]:
    yield "web UI", platform.url
    results = store.local_path("")
    yield "results", store.root if results is None else _short(results)
    yield "logs", _short(platform.settings.home / "logs")
    for key in finished:
        name = layout.mosaic(key)
        local = store.local_path(name)
        yield "view", f"em-platform view {_short(local) if local else store.url(name)}"


def _mosaic_size(store: Store, key: str) -> str | None:
    from em_platform.formats.ome_zarr import open_level

    try:
        level = open_level(
            store.url(layout.mosaic(key)), 0, storage_options=store.options
        )
    except PlatformError:
        return None
    return f"{level.shape[1]} x {level.shape[0]}"


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _settings(home: str | None) -> Settings:
    """The settings, in the demo's own home and with a broker port that is free."""
    settings = load_settings()
    folder = Path(home) if home else settings.home / "demo"
    wanted = {"home": str(folder.absolute())}
    if settings.broker.embedded:
        free = free_port(settings.broker.host, settings.broker.port)
        wanted["broker.port"] = str(free)
    os.environ.update(export(wanted))
    return load_settings()
