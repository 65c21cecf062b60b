"""`em-platform sections`: simulated serial sections with known truth."""

import json
import os
from pathlib import Path

import click

from em_platform.cli.console_output import short
from em_platform.config import AcquisitionSettings, load_layers
from em_platform.errors import ConfigError
from em_platform.model.sentences import counted

_SIMULATION = ("acquisition", "simulation")
# A section as it is cut, where nobody has set anything else. The live microscope's has
# none, so that its tissue stays what it was.
_USUAL = {"knife_marks": 0.5, "folds": 2.0}


@click.command()
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="where the sections go, a folder each; the inbox has them stitched by Dagster",
)
@click.option(
    "--sections",
    default="1",
    show_default=True,
    metavar="N or FIRST:END",
    help="how many, from 0 on; or which, without the last",
)
@click.option("--rows", type=click.IntRange(min=1), help="of tiles [acquisition.rows]")
@click.option(
    "--columns", type=click.IntRange(min=1), help="of tiles [acquisition.columns]"
)
@click.option(
    "--tile-px", type=int, help="edge of a tile; else acquisition.simulation.tile_px"
)
@click.option(
    "--overlap",
    type=float,
    help="share of an edge that neighbours share; else acquisition.overlap",
)
@click.option("--seed", type=int, help="another seed, other tissue and errors")
@click.option(
    "--name",
    default="sections",
    show_default=True,
    help="begins the names of folders and tiles",
)
@click.option("--no-labels", is_flag=True, help="tiles and truth only")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="tiles at a time; without it as many as there are cores",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="also replace sections that were made with other settings; never other files",
)
@click.option("--json", "as_json", is_flag=True, help="what was made as JSON on stdout")
def command(
    output: Path,
    sections: str,
    name: str,
    no_labels: bool,
    workers: int | None,
    overwrite: bool,
    as_json: bool,
    **given: float | None,
) -> None:
    """Simulate sections of tissue, tile by tile, with all that is true of them.

    Each section is a folder of tiles as a microscope leaves them, with its list for
    `stitch`, where each tile truly lies, and what each pixel shows. Neighbouring
    sections continue each other. Where an option is left out, the setting in brackets
    counts. What is wrong with the tiles are the settings acquisition.simulation, as of
    the simulated microscope: jitter_px, lens_px, missing, blurred, vignette, drift,
    focus_gradient_px, knife_marks, folds and others.
    """
    from em_platform.simulation.sections import simulate_sections
    from em_platform.stitching.compute import local_map

    settings = _settings(given)
    which, wanted = _numbers(sections), workers or len(os.sched_getaffinity(0))
    _check_name(name)
    made = []
    for each in simulate_sections(
        output,
        which,
        settings=settings,
        name=name,
        labels=not no_labels,
        overwrite=overwrite,
        run=local_map(wanted),
    ):
        made.append(each)
        kept = "" if each.made else ", kept as it stands"
        if not as_json:
            click.echo(f"{short(each.folder)}: {counted(each.tiles, 'tile')}{kept}")
    if as_json:
        found = [
            {"folder": str(each.folder), "tiles": each.tiles, "made": each.made}
            for each in made
        ]
        click.echo(json.dumps({"sections": found}))


def _settings(given: dict[str, float | None]) -> AcquisitionSettings:
    names = {"tile_px": "simulation.tile_px", "seed": "simulation.seed"}
    overrides = {
        f"acquisition.{names.get(option, option)}": str(value)
        for option, value in given.items()
        if value is not None
    }
    layered = load_layers(overrides=overrides)
    settings = layered.settings.acquisition
    usual = {
        name: value
        for name, value in _USUAL.items()
        if layered.layer_of((*_SIMULATION, name)) == "default"
    }
    simulation = settings.simulation.model_copy(update=usual)
    return settings.model_copy(update={"simulation": simulation})


def _check_name(name: str) -> None:
    from em_platform.acquisition.frame_paths import frame_path
    from em_platform.errors import DeviceError

    try:
        frame_path(Path(), name, name)
    except DeviceError as error:
        raise ConfigError(
            f"--name {name}: cannot begin a file's name, expected letters, digits, "
            "'.', '_' and '-'; choose another name"
        ) from error


def _numbers(text: str) -> range:
    first, colon, end = text.rpartition(":")
    try:
        found = range(int(first) if colon else 0, int(end))
    except ValueError:
        found = range(0)
    if not found or found.start < 0:
        raise ConfigError(
            f"--sections {text}: found no number of sections, expected one from 1 on, "
            "or the first and the end as in 3:8; write it so"
        )
    return found
