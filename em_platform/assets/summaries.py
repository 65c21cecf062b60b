"""What a person wants to know of each asset, in the order of interest."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from em_platform.assets.metadata import Metadata, failure_table, picture, table
from em_platform.formats import local_path
from em_platform.model import (
    AcquisitionUpload,
    Check,
    LensModel,
    Montage,
    MontageFit,
    Review,
    TileMatch,
    TileStats,
)
from em_platform.model.dataset import DatasetRecord
from em_platform.stitching.finished import mosaic_preview
from em_platform.stitching.pictures import residual_plot, tile_map
from em_platform.stitching.render import Mosaic


def montage_summary(montage: Montage) -> Metadata:
    """How many tiles of what size, and what was excluded."""
    size = montage.tile_size
    summary: Metadata = {
        "tiles": len(montage.tiles),
        "tiles expected": montage.expected_tiles,
        "excluded": failure_table(montage.failures),
        "tile size": f"{size.height_px} x {size.width_px} px",
        "microscope": montage.microscope,
        "montage": montage.montage_id,
    }
    if montage.pixel_nm is not None:
        summary["pixel size (nm)"] = montage.pixel_nm
    if montage.magnification is not None:
        summary["magnification"] = montage.magnification
    if montage.started_at is not None:
        summary["imaged"] = dg.MetadataValue.timestamp(montage.started_at)
    return summary


def statistics_summary(montage: Montage, tiles: Sequence[TileStats]) -> Metadata:
    """A map of the focus; the middle and the worst of focus, spread, saturation."""
    if not tiles:
        return {"tiles": 0}
    blurred = min(tiles, key=lambda tile: tile.focus)
    focus = {tile.tile_id: tile.focus for tile in tiles}
    return {
        "focus of each tile": picture(tile_map(montage, focus, "focus"), "focus"),
        "tiles": len(tiles),
        "focus (median)": short(statistics.median(tile.focus for tile in tiles)),
        "focus (worst)": short(blurred.focus),
        "worst focus in": blurred.tile_id,
        "mean grey level": short(statistics.fmean(tile.mean for tile in tiles)),
        "min standard deviation": short(min(tile.std for tile in tiles)),
        "max saturated fraction": short(max(t.saturated_fraction for t in tiles)),
    }


def match_summary(matches: Sequence[TileMatch], lens: LensModel | None) -> Metadata:
    """How many pairs agree, how well, and by which lens they were corrected."""
    kept = [match for match in matches if match.kept]
    summary: Metadata = {"pairs": len(matches), "pairs matched": len(kept)}
    if kept:
        scores = [match.score for match in kept]
        summary["score (median)"] = short(statistics.median(scores))
        summary["score (worst)"] = short(min(scores))
        summary["points (median)"] = statistics.median(match.points for match in kept)
    summary["lens correction"] = (
        "none" if lens is None else f"{lens.microscope} at {lens.magnification} x"
    )
    return summary


def fit_summary(montage: Montage, fit: MontageFit) -> Metadata:
    """How well the places explain the matches, and who was not believed."""
    groups = 1 + max((place.component for place in fit.placements), default=0)
    return {
        "residuals": picture(residual_plot(montage, fit), "residuals"),
        "tiles placed": len(fit.placements),
        "residual rms (px)": short(fit.residual_px),
        "connected components": groups,
        "matches used": sum(match.kept for match in fit.matches),
        "matches rejected": sum(not match.kept for match in fit.matches),
    }


def lens_summary(lens: LensModel, montage: Montage) -> Metadata:
    """How well the field explains the matches, and where it comes from."""
    return {
        "residual mean (px)": short(lens.residual_mean_px),
        "residual std (px)": short(lens.residual_std_px),
        "points": lens.points,
        "degree": lens.degree,
        "from montage": montage.acquisition_id,
    }


def mosaic_summary(mosaic: Mosaic, options: Mapping[str, Any]) -> Metadata:
    """A small picture, size, place, and how to look at the whole."""
    local = local_path(mosaic.url)
    height, width = mosaic.shape
    return {
        "preview": picture(mosaic_preview(mosaic.url, options=options), "mosaic"),
        "open it with": dg.MetadataValue.md(
            f"`em-platform view {local or mosaic.url}`"
        ),
        "path": place(mosaic.url),
        "size": f"{height} x {width} px ({mosaic.mpix:.1f} Mpix)",
        "levels": mosaic.levels,
        "review": _review(mosaic.review),
    }


def record_summary(record: DatasetRecord, url: str) -> Metadata:
    """What the record says, and where it lies."""
    remarks = record.metadata.quality.validation_errors
    return {
        "description": record.metadata.core.description,
        "remarks": dg.MetadataValue.md("\n".join(f"- {text}" for text in remarks))
        if remarks
        else "none",
        "path": place(url),
        "record": dg.MetadataValue.json(record.model_dump(mode="json")),
    }


def upload_summary(upload: AcquisitionUpload, url: str) -> Metadata:
    """How many tiles aloha has taken, of how many bytes, and where they lie."""
    return {
        "tiles": len(upload.tiles),
        "bytes": sum(tile.bytes for tile in upload.tiles),
        "excluded": failure_table(upload.failures),
        "path": place(url),
        "specimen": upload.specimen_id or "not known",
        "task": upload.task_id or upload.montage_id,
        "replaces": upload.replaces_acquisition_id or "none",
    }


def review_summary(checks: Sequence[Check], state: str) -> Metadata:
    """The verdict, and the checks that failed."""
    failed = [(check.name, check.sentence) for check in checks if not check.passed]
    return {
        "verdict in TEM DB": state,
        "checks": len(checks),
        "failed": table(("check", "what it found"), failed) if failed else "none",
    }


def _review(review: Review) -> dg.MetadataValue:
    """Whether the mosaic may be used as it is, else why not."""
    if review.passed:
        return dg.MetadataValue.text("passed")
    lines = [f"- {reason}" for reason in review.reasons]
    return dg.MetadataValue.md("\n".join(["**needs review**", "", *lines]))


def place(url: str) -> dg.MetadataValue:
    """Where a thing lies: a path where that is on this machine."""
    local = local_path(url)
    if local is None:
        return dg.MetadataValue.url(url)
    return dg.MetadataValue.path(local)


def short(value: float) -> float:
    """Four digits that mean something."""
    return float(f"{value:.4g}")
