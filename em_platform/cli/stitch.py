"""`em-platform stitch`: tiles in, a checked OME-Zarr mosaic and a report out."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click

from em_platform.cli.console_output import own_fault, step_progress
from em_platform.config import Settings, load_settings
from em_platform.config.reading import read_regular
from em_platform.errors import ConfigError, PlatformError
from em_platform.model import LensModel, Montage

if TYPE_CHECKING:
    from em_platform.stitching.stitch import StitchResult

_UNUSABLE = 1
_EXCLUDED = 2  # a script may want such a mosaic, but has to know
_PREVIEWS = ("mosaic.png", "focus.png", "residuals.png")
_PREVIEW = "stitch preview"
_THREADS = 8  # more wait for Python's lock


_Given = Mapping[str, Any]
"""The options by their names, as click gives them."""


class _Asked(TypedDict):
    """What every output is guarded by: it is no input, and replaced only if asked."""

    inputs: tuple[str, ...]
    overwrite: bool


class _Command(click.Command):
    """Wrong options end with status 1 like all input that cannot be used."""

    def make_context(self, *given: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*given, **extra)
        except click.UsageError as error:
            error.show()
            raise click.exceptions.Exit(_UNUSABLE) from error


@click.command(cls=_Command, context_settings={"max_content_width": 100})
@click.argument("source", metavar="INPUT")
@click.option("--output", required=True, help="the mosaic: path or URL ending in .zarr")
@click.option("--report", type=click.Path(path_type=Path), help="write this JSON")
@click.option("--previews", type=click.Path(path_type=Path), help="folder for PNGs")
@click.option(
    "--overwrite",
    is_flag=True,
    help="also replace the mosaic or report of another INPUT; never other files",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Dask processes; without it threads of this process on all cores",
)
@click.option("--pixel-nm", type=float, help="pixel size of the tiles")
@click.option(
    "--overlap",
    help="for names: 10% or 200px (a bare number below 1 is a fraction, else pixels); "
    "without it the tiles are compared",
)
@click.option(
    "--pattern", help="names: 'tile_{row}_{col}*.tif' or a regular expression"
)
@click.option("--level", type=int, help="mipmap level of tile specs")
@click.option("--section", type=int, help="section of an mdoc")
@click.option("--image", help="image stack of an mdoc")
@click.option("--name", help="acquisition id; without it name and hash of INPUT")
@click.option(
    "--flat-field",
    type=click.Choice(["auto", "none", "estimate", "acquired"]),
    help="how uneven light is taken out",
)
@click.option(
    "--model",
    type=click.Choice(["auto", "translation", "rigid", "affine"]),
    help="what may be done to a tile to fit it",
)
@click.option("--lens", type=click.Path(path_type=Path), help="lens model JSON")
@click.option("--search-px", type=int, help="how far a tile may lie from its place")
@click.option("--json", "as_json", is_flag=True, help="the report as JSON on stdout")
def command(source: str, **given: Any) -> None:
    """Stitch the tiles of INPUT into one OME-Zarr mosaic.

    INPUT is a folder of tiles or one of the lists below; in a folder the first that is
    there is taken:

    \b
      1. CSV or JSON table: file, x_px, y_px (or x_nm, y_nm); x right, y down
      2. metafile of an Allen TEMCA
      3. tile specs of render (files matched by base name beside the list)
      4. montage.json of this platform
      5. montage .mdoc of SerialEM with its .mrc stack
      6. file names with row and column: r003c007, row3_col7, x7_y3, _003_007

    A tile that cannot be used is excluded with one sentence and the rest is stitched.

    \b
    Exit status:
      0  all tiles placed, all checks of severity ERROR passed
      1  the input could not be used, or the mosaic not be written, as where OUTPUT is
         not a mosaic of this program; a report with the reason is written all the same
      2  the mosaic is there, but tiles were excluded or an ERROR check failed
    """  # noqa: D301 - \b keeps the lines apart, for click
    from em_platform.stitching import report

    settings = _settings(given)
    # Whatever is read here: no output may take its place.
    files = (source, given["lens"], os.environ.get("EM_CONFIG_FILE"), given["image"])
    inputs = tuple(str(file) for file in files if file is not None)
    asked = _Asked(inputs=inputs, overwrite=given["overwrite"])
    _check_files(given, asked)
    try:
        montage = _open(source, given, settings)
        result = _stitch(montage, given, settings, asked)
    except Exception as error:
        shown = error if isinstance(error, PlatformError) else own_fault(error)
        # Written all the same: a script finds the reason there.
        _give_report(report.refusal(source, shown), given, asked)
        raise shown from error
    _give_report(report.report_of(result), given, asked)
    if given["previews"]:
        _write_previews(result, given["previews"], asked)
    # With --json stdout is for the JSON alone.
    lines = [*report.summary_of(result), *_doubts(result, given)]
    click.echo("\n".join(lines), err=given["as_json"])
    if not report.is_clean(result):
        sys.exit(_EXCLUDED)


def _doubts(result: "StitchResult", given: _Given) -> Iterator[str]:
    """What on this command line may be wrong or missing, a line each."""
    if given["overlap"] and not all(m.kept for m in result.fit.matches):
        yield (
            f"overlap  --overlap {given['overlap']} was taken as given; leave it out "
            "to have the overlap measured"
        )
    if result.montage.pixel_nm is None:
        yield "pixel    size unknown, so that the mosaic has no scale; give --pixel-nm"


def _give_report(report: Any, given: _Given, asked: _Asked) -> None:
    from em_platform.stitching.report import write_report

    if given["report"]:
        write_report(given["report"], report, **asked)
    if given["as_json"]:
        click.echo(json.dumps(report))


def _check_files(given: _Given, asked: _Asked) -> None:
    """Refuse outputs that stand in the way of others, before any work is done."""
    from em_platform.stitching.report import REPORT
    from em_platform.storage.guard import check_file

    if not given["output"].rstrip("/").endswith(".zarr"):
        raise ConfigError(
            f"--output {given['output']}: the mosaic is an OME-Zarr image, a name that "
            "ends in .zarr was expected; write it so"
        )
    if given["report"]:
        check_file(given["report"], REPORT, **asked)
    for name in _PREVIEWS if given["previews"] else ():
        check_file(given["previews"] / name, _PREVIEW, **asked)


def _settings(given: _Given) -> Settings:
    overrides = {}
    for option, name in (
        ("flat_field", "tile.flat_field"),
        ("model", "solve.model"),
        ("search_px", "match.search_px"),
    ):
        if given[option] is not None:
            overrides[f"stitching.{name}"] = str(given[option])
    return load_settings(overrides=overrides)


def _open(source: str, given: _Given, settings: Settings) -> Montage:
    from em_platform.stitching.inputs import open_montage
    from em_platform.storage import options_of

    return open_montage(
        source,
        pixel_nm=given["pixel_nm"],
        overlap=_overlap(given["overlap"]),
        pattern=given["pattern"],
        level=given["level"],
        section=given["section"],
        image=given["image"],
        name=given["name"],
        options=options_of(source, settings),
    )


def _overlap(text: str | None) -> float | None:
    if text is None:
        return None
    unit = next(unit for unit in ("%", "px", "") if text.endswith(unit))
    try:
        value = float(text.removesuffix(unit))
    except ValueError:
        # It fits no unit below, and so ends in the same sentence.
        value = math.nan
    fits = {"%": 0 <= value < 100, "px": value >= 1 or not value, "": value >= 0}
    if not fits[unit] or math.isinf(value):
        raise ConfigError(
            f"--overlap {text}: a percentage below 100 or whole pixels were expected, "
            "such as 10% or 200px"
        )
    if not unit and value >= 1:
        click.echo(
            f"overlap  {value:g} px; write {value:g}% for a part of a tile", err=True
        )
    return value / 100 if unit == "%" else value


def _lens(path: Path | None) -> LensModel | None:
    if path is None:
        return None
    try:
        return LensModel.model_validate_json(read_regular(path))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--lens {path}: cannot be read as a lens model ({reason}); give the JSON "
            "of the lens_correction asset"
        ) from error


def _stitch(
    montage: Montage,
    given: _Given,
    settings: Settings,
    asked: _Asked,
) -> "StitchResult":
    from em_platform.stitching import compute
    from em_platform.stitching.render import mosaic_product
    from em_platform.stitching.stitch import stitch_montage
    from em_platform.storage import options_of
    from em_platform.storage.guard import check_output
    from em_platform.storage.lease import refuse_if_busy

    lens = _lens(given["lens"])
    target, uri = given["output"], montage.tiles[0].uri
    inputs = (*asked["inputs"], *(tile.uri for tile in montage.tiles))
    asked = _Asked(inputs=inputs, overwrite=asked["overwrite"])
    options = options_of(target, settings)
    # Before any work is done; asked again when the mosaic is written.
    check_output(target, mosaic_product(montage), options=options, **asked)
    refuse_if_busy(target, options=options)
    before = compute.own_usage().cpu_seconds
    wanted: dict[str, Any] = {
        **asked,
        "settings": settings.stitching,
        "lens": lens,
        "storage_options": options,
        "input_options": options_of(uri, settings),
    }
    # The cores that this process may use, which may be fewer than there are.
    workers, cores = given["workers"], len(os.sched_getaffinity(0))
    # OpenCV's threads would compete with those of other tiles.
    compute.use_one_thread_an_item()
    with step_progress() as progress:
        # One worker is this process: a cluster of one would cost its start.
        if workers is None or workers == 1:
            run = compute.local_map(workers or min(cores, _THREADS))
            return stitch_montage(montage, target, run=run, progress=progress, **wanted)
        memory = settings.dask.memory_limit_mb
        with compute.local_cluster(workers, memory_limit_mb=memory) as client:
            result = stitch_montage(
                montage,
                target,
                run=compute.dask_map(client),
                progress=progress,
                **wanted,
            )
            peak = max(result.peak_memory_mb, compute.worker_peak_memory_mb(client))
    # The workers have ended: their CPU-seconds are now those of our children.
    cpu_seconds = compute.own_usage().cpu_seconds - before
    return replace(result, cpu_seconds=cpu_seconds, peak_memory_mb=peak)


def _write_previews(result: "StitchResult", folder: Path, asked: _Asked) -> None:
    import cv2

    from em_platform.ome_zarr import preview
    from em_platform.stitching.pictures import residual_plot, tile_map
    from em_platform.storage.guard import marked_png, write_file

    # At most 1600 px on the longer side.
    _, mosaic = cv2.imencode(".png", preview(result.mosaic.url, 1600))
    focus = {stats.tile_id: stats.focus for stats in result.stats}
    pictures = (
        mosaic.tobytes(),
        tile_map(result.montage, focus, "focus"),
        residual_plot(result.montage, result.fit),
    )
    for name, picture in zip(_PREVIEWS, pictures, strict=True):
        write_file(folder / name, marked_png(picture, _PREVIEW), _PREVIEW, **asked)
