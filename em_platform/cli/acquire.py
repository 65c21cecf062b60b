"""`em-platform acquire`: montages from the microscope, real or simulated."""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.instrument import Instrument
from em_platform.acquisition.raster import MontagePlan
from em_platform.acquisition.rig import microscope_answers, running_rig
from em_platform.acquisition.session import Acquisition, Imaged, Session
from em_platform.config import Settings, export, load_settings
from em_platform.errors import ConfigError
from em_platform.messaging.bus import Bus
from em_platform.processes import free_port

_CONNECT_S = 10.0


@click.command()
@click.option("--montages", default=1, show_default=True, help="How many.")
@click.option("--first", default=1, show_default=True, help="Number of the first one.")
@click.option("--rows", type=click.IntRange(1), help="Rows of tiles.")
@click.option("--columns", type=click.IntRange(1), help="Columns of tiles.")
@click.option("--tile-px", type=click.IntRange(64), help="Edge of a simulated tile.")
@click.option("--overlap", type=float, help="Shared part of an edge, 0 to 1.")
@click.option("--seed", type=int, help="Of the simulated specimen and its errors.")
@click.option(
    "--broker", metavar="HOST:PORT", help="The broker to use; port 0: a free one."
)
def command(montages: int, first: int, broker: str | None, **chosen: float) -> None:
    """Image montages with the microscope that is on the bus.

    Where no scope, stage and camera answer, simulated ones are started for as long as
    it takes, with a broker if none listens. Montage n is a raster about the middle of
    aperture n.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = _settings(broker, chosen)
    begun_s = time.monotonic()
    with microscope(settings), Bus(settings.broker, "session") as bus:
        bus.connect(_CONNECT_S)
        made = image_montages(bus, settings, plans(settings, montages, first=first))
        bus.flush()
    _say_what_was_made(made, time.monotonic() - begun_s)


@contextmanager
def microscope(settings: Settings) -> Iterator[None]:
    """The microscope that answers, or a simulated one that runs within the block."""
    if microscope_answers(settings):
        click.echo("a microscope answers, it is used")
        yield
        return
    click.echo("no microscope answers, a simulated one starts ...")
    with running_rig(settings):
        yield


def plans(settings: Settings, count: int, *, first: int = 1) -> list[MontagePlan]:
    """Montages `first` to `first + count - 1`, each of the aperture of its number."""
    acquisition = settings.acquisition
    return [
        MontagePlan(
            montage_id=f"m-{number:04d}",
            aperture_id=number,
            rows=acquisition.rows,
            columns=acquisition.columns,
            overlap=acquisition.overlap,
        )
        for number in range(first, first + count)
    ]


def image_montages(
    bus: Bus, settings: Settings, montage_plans: list[MontagePlan]
) -> list[Imaged]:
    """Image them all, with a line of progress each."""
    acquisition = settings.acquisition
    session = Session(
        Instrument(bus, acquisition),
        acquisition,
        frames=frames_folder(settings),
        rotation_rad=math.radians(acquisition.simulation.rotation_deg),
        progress=_say_progress,
    )
    made = []
    for imaged in session.image(montage_plans):
        made.append(imaged)
        click.echo(
            f"\r{imaged.acquisition_id}: {imaged.tiles} tiles of "
            f"{imaged.size.width_px} x {imaged.size.height_px} px in "
            f"{imaged.seconds:.1f} s ({imaged.mpix_per_s:.1f} Mpix/s)"
        )
    return made


def _say_progress(acquisition: Acquisition) -> None:
    if os.isatty(1):
        done, total = len(acquisition.tiles), len(acquisition.stops)
        click.echo(f"\r{acquisition.acquisition_id}: tile {done} of {total}", nl=False)


def _say_what_was_made(made: list[Imaged], seconds: float) -> None:
    tiles = sum(imaged.tiles for imaged in made)
    count = "1 montage" if len(made) == 1 else f"{len(made)} montages"
    click.echo(f"{count}, {tiles} tiles, in {seconds:.1f} s; frames in")
    for folder in dict.fromkeys(imaged.folder for imaged in made):
        click.echo(f"  {_short(folder)}")


def _short(folder: Path) -> str:
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _settings(broker: str | None, chosen: dict[str, float]) -> Settings:
    """The settings with the options on top; child processes get the same."""
    names = {
        "tile_px": "acquisition.simulation.tile_px",
        "seed": "acquisition.simulation.seed",
    }
    overrides = {
        names.get(name, f"acquisition.{name}"): str(value)
        for name, value in chosen.items()
        if value is not None
    }
    if broker is not None:
        host, _, port = broker.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(
                f"acquire: --broker {broker}: expected HOST:PORT; write it so"
            )
        overrides |= {"broker.host": host, "broker.port": port}
    os.environ.update(export(overrides))
    settings = load_settings()
    if settings.broker.port == 0:
        port = str(free_port(settings.broker.host))
        os.environ.update(export({**overrides, "broker.port": port}))
        settings = load_settings()
    return settings
