"""`em-platform simulate`: tilt series with known truth, without a microscope."""

import json
import os
from pathlib import Path

import click

from em_platform.cli.console_output import step_progress


def _known_exports(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[str, ...]:
    from em_platform.simulation.tilt_series.exports import EXPORTS

    kinds = tuple(dict.fromkeys((value or "").replace(",", " ").split()))
    if kinds == ("all",):
        return tuple(EXPORTS)
    unknown = [kind for kind in kinds if kind not in EXPORTS]
    if unknown:
        raise click.BadParameter(
            f"found {unknown[0]}, one of {', '.join(EXPORTS)} was expected"
        )
    return kinds


@click.command()
@click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="where the stacks go, a folder each; a new one, or one of this command",
)
@click.option(
    "--stack",
    "stacks",
    type=click.IntRange(min=0),
    multiple=True,
    help="only this one, counted from 0; may be repeated",
)
@click.option(
    "--backend",
    type=click.Choice(["embedded", "tem_simulator"]),
    default="embedded",
    show_default=True,
    help="what makes the images",
)
@click.option(
    "--tem-simulator",
    type=click.Path(path_type=Path),
    metavar="PROGRAM",
    help="of --backend tem_simulator; without it the setting, else the one on PATH",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="tilts at a time; without it as many as there are cores",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="also replace stacks that were made of another CONFIG; never other files",
)
@click.option(
    "--export",
    "exports",
    callback=_known_exports,
    metavar="KINDS",
    help="also projects of other programs in FOLDER/exports, of all stacks that stand "
    "there: imod, relion5, dynamo, eman2, motl; several with commas, or all",
)
@click.option("--json", "as_json", is_flag=True, help="what was made as JSON on stdout")
def command(
    config: Path,
    output: Path,
    stacks: tuple[int, ...],
    backend: str,
    tem_simulator: Path | None,
    workers: int | None,
    overwrite: bool,
    exports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Simulate the tilt series that CONFIG plans, with their truth.

    CONFIG is a YAML file (docs/how-to/simulate-tilt-series.md, its fields:
    docs/reference/plan.md), or a configs.yaml of ETSimulations. What is killed is
    resumed by the same command; the same CONFIG gives the same bytes.
    """
    from em_platform.config import load_settings
    from em_platform.simulation.tilt_series.backends import backend_of
    from em_platform.simulation.tilt_series.data_set import simulate
    from em_platform.simulation.tilt_series.exports import export_all
    from em_platform.simulation.tilt_series.plan_file import read_plan

    plan = read_plan(config)
    settings = load_settings().tilt_series
    cores = len(os.sched_getaffinity(0))
    made = []
    with step_progress() as progress:
        for each in simulate(
            plan,
            output,
            backend=backend_of(
                backend,
                workers=workers or cores,
                program=str(tem_simulator or settings.tem_simulator),
                timeout_s=settings.tem_simulator_timeout_s,
            ),
            stacks=stacks,
            inputs=(str(config),),
            progress=progress,
            overwrite=overwrite,
        ):
            made.append(each)
            kept = "" if each.made else ", kept as it stands"
            if not as_json:
                click.echo(f"{each.folder}: {each.tilts} tilts{kept}")
    projects = export_all(plan, output, exports)
    for project in [] if as_json else projects:
        click.echo(f"{project}: written")
    if as_json:
        found = [
            {"stack": each.name, "folder": str(each.folder), "tilts": each.tilts,
             "made": each.made}
            for each in made
        ]  # fmt: skip
        click.echo(json.dumps({"stacks": found, "projects": [*map(str, projects)]}))
