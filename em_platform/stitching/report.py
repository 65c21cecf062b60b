"""The output of a stitch: the report file, and the few lines a person reads."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from em_platform.errors import PlatformError
from em_platform.model import (
    Check,
    Failure,
    JsonObject,
    Montage,
    MontageFit,
    TileMatch,
)
from em_platform.model.sentences import size_of
from em_platform.stitching.closure import residuals_of
from em_platform.stitching.compute import own_usage, peak_memory_mb
from em_platform.stitching.truth import is_truth
from em_platform.storage.guard import mark_of, write_file

if TYPE_CHECKING:
    from em_platform.stitching.stitch import StitchResult

# What the file says of itself.
REPORT = "stitch report"
# Items that a list in the report names before it only counts.
_SOME = 8


def file_names(montage: Montage) -> dict[str, str]:
    """Tile id -> the name of its file: as it was listed, else its last part."""
    names = {tile.tile_id: _file_name(tile.tile_id, tile.uri) for tile in montage.tiles}
    # Two folders may hold files of one name.
    if len(set(names.values())) < len(names):
        return {tile.tile_id: tile.uri for tile in montage.tiles}
    return names


def report_of(result: "StitchResult") -> JsonObject:
    """The report, ready for JSON; the same result gives the same bytes but for times.

    Places are the tiles' top-left corners, x to the right, y down; an edge's `dx_px,
    dy_px` is the corner of `b` as seen from `a`. What was excluded is in `failures`.
    """
    montage, fit, mosaic = result.montage, result.fit, result.mosaic
    names = file_names(montage)
    return {
        "acquisition_id": montage.acquisition_id,
        "tiles": _tiles(fit, names),
        "edges": [_edge(match, names) for match in fit.matches],
        "checks": [check.model_dump(mode="json") for check in result.checks],
        "review": result.review.model_dump(mode="json"),
        "failures": [failure.model_dump(mode="json") for failure in montage.failures],
        # Finer than any fit: RMSE 0.007 px and more (docs/benchmarks.md).
        "residual_px": round(fit.residual_px, 4),
        "mosaic": {
            "url": mosaic.url,
            "height_px": mosaic.shape[0],
            "width_px": mosaic.shape[1],
            "levels": mosaic.levels,
            "origin_y_px": mosaic.origin_px[0],
            "origin_x_px": mosaic.origin_px[1],
            "pixel_nm": montage.pixel_nm,
        },
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "cpu_seconds": round(result.cpu_seconds, 3),
        "peak_memory_mb": round(result.peak_memory_mb, 1),
    }


def refusal(source: str, error: PlatformError) -> JsonObject:
    """The report of an input that gave no mosaic: its one failure is the reason."""
    failure = Failure(item=source, error=type(error).__name__, sentence=str(error))
    return {
        "tiles": [],
        "edges": [],
        "checks": [],
        "failures": [failure.model_dump(mode="json")],
        "seconds": {},
        "cpu_seconds": round(own_usage().cpu_seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


def write_report(
    path: Path,
    report: JsonObject,
    *,
    inputs: Iterable[str] = (),
    overwrite: bool = False,
) -> None:
    """Put a report at `path`, whole or not at all; only another report is replaced.

    Raises
    ------
    OutputRefused
        Another file stands there, or an input.
    StorageError
        It could not be written.
    """
    marked = {"made_by": mark_of(REPORT).decode(), **report}
    # No NaN: Python writes it, and other programs refuse the file.
    content = json.dumps(marked, indent=1, ensure_ascii=False, allow_nan=False)
    write_file(
        path, content.encode() + b"\n", REPORT, inputs=inputs, overwrite=overwrite
    )


def summary_of(result: "StitchResult") -> list[str]:
    """What a person wants to know after a stitch, one fact a line."""
    montage, fit, mosaic = result.montage, result.fit, result.mosaic
    names = file_names(montage)
    dropped = [match for match in fit.matches if not match.kept]
    total = result.seconds["total"]
    return [
        f"tiles    {len(fit.placements)} placed of {montage.expected_tiles}, "
        f"{len(montage.failures)} excluded",
        *(f"         - {failure.sentence}" for failure in montage.failures),
        f"edges    {len(fit.matches) - len(dropped)} kept, {len(dropped)} dropped",
        *(
            f"         - {names[m.a]} / {names[m.b]}: {m.reason}"
            for m in dropped[:_SOME]
        ),
        *(["         - ... (all in the report)"] if len(dropped) > _SOME else []),
        f"fit      {residuals_of(fit)}",
        # Written also where it passed: it is what a simulation is made for.
        *(f"truth    {c.sentence}" for c in result.checks if c.passed and is_truth(c)),
        *_check_lines(result.checks),
        f"cost     {total:.1f} s, {mosaic.mpix / max(total, 1e-9):.1f} Mpix/s, "
        f"{result.cpu_seconds:.1f} CPU-s, peak {result.peak_memory_mb:.0f} MiB",
        f"mosaic   {size_of(mosaic.shape)}, {mosaic.levels} levels: {mosaic.url}",
    ]


def is_clean(result: "StitchResult") -> bool:
    """Whether all planned tiles are in the mosaic and no check of ERROR failed."""
    return result.review.passed


def _file_name(tile_id: str, uri: str) -> str:
    if uri.endswith(tile_id):
        return tile_id
    # Lists that were written on Windows have its separators.
    return uri.replace("\\", "/").rpartition("/")[2]


def _tiles(fit: MontageFit, names: Mapping[str, str]) -> list[JsonObject]:
    return [
        {
            "file": names[place.tile_id],
            "x_px": round(place.x_px, 4),
            "y_px": round(place.y_px, 4),
            "residual_px": _rounded(place.residual_px),
        }
        for place in fit.placements
    ]


def _edge(match: TileMatch, names: Mapping[str, str]) -> JsonObject:
    return {
        "a": names[match.a],
        "b": names[match.b],
        "dx_px": round(match.shift.dx_px, 4),
        "dy_px": round(match.shift.dy_px, 4),
        "score": round(match.score, 4),
        "points": match.points,
        "kept": match.kept,
        "reason": match.reason,
        "residual_px": _rounded(match.residual_px),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _check_lines(checks: tuple[Check, ...]) -> list[str]:
    judged = [check for check in checks if check.is_applicable]
    passed = sum(check.passed for check in judged)
    failed = [check for check in judged if not check.passed]
    idle = dict.fromkeys(c.sentence for c in checks if not c.is_applicable)
    return [
        f"checks   {passed} of {len(judged)} passed",
        *(f"         - {sentence}" for sentence in idle),
        *(f"         - {check.severity.upper()} {check.sentence}" for check in failed),
    ]
