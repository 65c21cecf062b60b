"""`em-platform acquire`: montages from the microscope, real or simulated."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from em_platform.cli.console_output import ConsoleOutput, print_messages, short
from em_platform.config import Settings, export, load_settings
from em_platform.errors import ConfigError
from em_platform.processes import free_port
from em_platform.storage.guard import check_file, write_file

if TYPE_CHECKING:
    from em_platform.acquisition.session.report import LiveReport

_CONNECT_S = 10.0  # the broker answers already, or was just started by us
_OF_THE_RIG = {
    "tile_px": "acquisition.simulation.tile_px",
    "seed": "acquisition.simulation.seed",
}
"""Options by which a simulated microscope is made -> their settings."""
_REPORT = "session report"


@click.command()
@click.option(
    "--montages",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="How many new ones; 0: only those that were begun.",
)
@click.option(
    "--first",
    type=click.IntRange(1),
    help="Number of the first new one.  [default: the first that is free]",
)
@click.option("--rows", type=click.IntRange(1), help="Rows of tiles.")
@click.option("--columns", type=click.IntRange(1), help="Columns of tiles.")
@click.option("--tile-px", type=click.IntRange(64), help="Edge of a simulated tile.")
@click.option("--overlap", type=float, help="Shared part of an edge, 0 to 1.")
@click.option("--seed", type=int, help="Of the simulated specimen and its errors.")
@click.option("--exit", "ends", is_flag=True, help="End when all is uploaded.")
@click.option("--report", "report_path", metavar="FILE", help="Figures, as JSON.")
@click.option("--draw", metavar="FILE", help="Draw the state machine, image nothing.")
@click.option(
    "--broker", metavar="HOST:PORT", help="The broker to use; port 0: a free one."
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
def command(
    montages: int,
    first: int | None,
    ends: bool,
    report_path: str | None,
    draw: str | None,
    broker: str | None,
    as_json: bool,
    **chosen: float,
) -> None:
    """Image montages with the live microscope, judge and upload them.

    Where no coordinator answers on the bus, the whole microscope is started: what
    answers, such as a real camera, is used, all else is simulated or our own. Montage n
    is a raster about the middle of aperture n.

    Montages that the microscope has begun, or that wait, are finished first, also after
    a Stop now: their rejected tiles are imaged again. The report includes them.

    It keeps serving until Ctrl-C. With --exit, or without a terminal, it ends: with
    status 0 when every montage is imaged, judged, uploaded and verified, and nothing
    was lost or published twice.
    """
    settings = _settings(broker, chosen)
    if draw is not None:
        from em_platform.acquisition import coordinator

        coordinator.draw(Path(draw))
        click.echo(f"the state machine is drawn in {short(Path(draw).absolute())}")
        return
    if report_path is not None:
        # Now: hours of imaging must not end at a file that is not ours.
        check_file(Path(report_path), _REPORT)
    print_messages()
    report = _image(
        settings,
        montages,
        # stdout is for the JSON alone.
        ConsoleOutput(Console(stderr=as_json, highlight=False)),
        first=first,
        ends=ends or as_json,  # who reads the JSON waits for its end
        report_path=report_path,
        shaping=[name for name in _OF_THE_RIG if chosen[name] is not None],
    )
    if as_json:
        click.echo(report.model_dump_json())
    sys.exit(0 if report.is_good else 1)


def _image(
    settings: Settings,
    montages: int,
    output: ConsoleOutput,
    *,
    first: int | None,
    ends: bool,
    report_path: str | None,
    shaping: Sequence[str],
) -> "LiveReport":
    from em_platform.acquisition.frame_paths import frames_folder
    from em_platform.cli import watch
    from em_platform.cli.live import live_microscope
    from em_platform.messaging.bus import Bus

    with live_microscope(settings, output) as live:
        if shaping and not live.started:
            raise _too_late(shaping)
        settings = live.settings
        if live.page:
            output.line(f"operator's page at {live.page}")
        with Bus(settings.broker, "acquire") as bus:
            bus.connect(_CONNECT_S)
            wanted = watch.new_regions(bus, settings, montages, first=first)
            report = watch.follow(
                watch.begin(bus, settings, wanted),
                output,
                tend=live.supervisor.tend,
                stopped=live.supervisor.stopping.is_set,
            )
        output.console.print(watch.table(report))
        for line in watch.figures(report):
            output.result(line)
        folders = {"frames": frames_folder(settings), "logs": settings.logs_folder}
        for label, path in folders.items():
            output.line(f"{label:<7}{short(path)}")
        if report_path is not None:
            content = report.model_dump_json(indent=1).encode() + b"\n"
            write_file(Path(report_path), content, _REPORT)
        if not ends and sys.stdout.isatty() and not live.supervisor.stopping.is_set():
            output.line("serving until Ctrl-C")
            live.supervisor.run()
        output.line("stopping")
    return report


def _settings(broker: str | None, chosen: dict[str, float]) -> Settings:
    """The settings with the options on top; child processes get the same."""
    overrides = {
        _OF_THE_RIG.get(name, f"acquisition.{name}"): str(value)
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
    # By the environment, so that the services started below get the same.
    os.environ.update(export(overrides))
    settings = load_settings()
    if settings.broker.port == 0:
        # Chosen once and here: every child must get the same.
        port = str(free_port(settings.broker.host))
        os.environ.update(export({**overrides, "broker.port": port}))
        settings = load_settings()
    return settings


def _too_late(shaping: Sequence[str]) -> ConfigError:
    options = " and ".join(f"--{name.replace('_', '-')}" for name in shaping)
    return ConfigError(
        f"acquire: found {options} and a microscope that runs already, expected "
        "options for the montage alone, as its camera and specimen are made when it "
        "starts; leave them out, or end that microscope first"
    )
