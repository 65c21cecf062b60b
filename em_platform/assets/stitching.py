"""Tiles -> matches -> one place for every tile -> mosaic."""

import statistics
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from em_platform.acquisition.montages.review import judged_montage
from em_platform.acquisition.montages.stored import lens_in_use, truth_of
from em_platform.acquisition.processing import (
    MatchedTiles,
    match_montage,
    processed_tiles,
    recipe_of,
)
from em_platform.assets.checks import (
    check_results,
    check_specs,
    dagster_failures,
    published_results,
)
from em_platform.assets.code_version import code_version
from em_platform.assets.metadata import (
    Metadata,
    Stopwatch,
    bullets,
    code,
    picture_file,
    place,
    short,
    tag_run,
)
from em_platform.formats.source import local_path
from em_platform.model import LensModel, Montage, MontageFit, Review, TileMatch
from em_platform.partitions import LENS, MONTAGE, lens_of_key, lenses, montages
from em_platform.resources.acquisition import Microscope
from em_platform.resources.dask import DaskResource
from em_platform.resources.storage import Configuration, Storage
from em_platform.stitching.closure import residuals_of
from em_platform.stitching.lens import check_lens, fit_lens
from em_platform.stitching.match import match_pairs
from em_platform.stitching.pictures import residual_plot
from em_platform.stitching.quality import (
    check_enough_connected,
    check_fit,
    check_matches,
)
from em_platform.stitching.render import (
    Mosaic,
    check_mosaic,
    mosaic_preview,
    render_mosaic,
)
from em_platform.stitching.solve import solve_montage
from em_platform.stitching.truth import MATCHES_TRUTH, check_truth
from em_platform.storage import Store, layout

_OWNERS = ["team:image-processing"]

_LENS_CORRECTION_CHECKS = {
    "lens_fits_well": "The field explains the matches as em_stitch asks."
}
_TILE_MATCHES_CHECKS = {
    "edges_are_matched": "Every pair of neighbours was matched, by enough points."
}
_MONTAGE_FIT_CHECKS = {
    "montage_has_no_gaps": "No tile is missing amid its neighbours.",
    "seams_are_closed": "No two neighbours disagree by more than the limit.",
    "tiles_are_connected": "All tiles are connected by matches.",
    "enough_tiles_are_connected": "Enough tiles are connected for a usable mosaic.",
    "montage_is_undistorted": "No tile had to be scaled to fit.",
}
_TRUTH_CHECKS = {
    MATCHES_TRUTH: "The tiles lie where they truly were; of simulated ones."
}
_MOSAIC_CHECKS = {
    "mosaic_is_valid": "Every level can be opened and has the expected size."
}


class LensMontage(dg.Config):
    """Which montage shows the lens: one that was imaged with 60 % overlap."""

    acquisition_id: str


@dg.asset(
    code_version=code_version("lens_correction"),
    group_name="stitching",
    partitions_def=lenses,
    kinds={"dask", "json"},
    owners=_OWNERS,
    # Lenses drift: an old calibration bends the seams of every later montage.
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=60), warn_window=timedelta(days=30)
    ),
    pool=LENS,
    check_specs=check_specs("lens_correction", _LENS_CORRECTION_CHECKS, lenses),
)
def lens_correction(
    context: dg.AssetExecutionContext,
    config: LensMontage,
    configuration: Configuration,
    microscope: Microscope,
    storage: Storage,
    compute: DaskResource,
) -> dg.MaterializeResult:
    """The distortion of one microscope's lens at one magnification."""
    name, magnification = lens_of_key(context.partition_key)
    settings = configuration.settings()
    with dagster_failures():
        store = storage.writing(layout.lens(name, magnification))
        montage = microscope.montage(config.acquisition_id)
        images = recipe_of(montage, settings, store).images(store.options)
        run = compute.map(montage.pixels)
        how = settings.stitching.match
        matches = match_pairs(montage, images, settings=how, run=run)
        lens = fit_lens(montage, matches, magnification=magnification)
        store.write(layout.lens(name, magnification), lens, LensModel)
        checks = check_lens(lens)
    tag_run(context, montage)
    return dg.MaterializeResult(
        metadata=lens_summary(lens, montage),
        check_results=check_results(checks, "lens_correction"),
    )


@dg.asset(
    code_version=code_version("tile_matches"),
    group_name="stitching",
    partitions_def=montages,
    deps=[
        "tiles",
        # Which lens imaged it stands in the montage, not in its key: any may have.
        dg.AssetDep("lens_correction", partition_mapping=dg.AllPartitionMapping()),
    ],
    kinds={"dask", "json"},
    owners=_OWNERS,
    pool=MONTAGE,
    check_specs=check_specs("tile_matches", _TILE_MATCHES_CHECKS, montages),
)
def tile_matches(
    context: dg.AssetExecutionContext,
    configuration: Configuration,
    storage: Storage,
    compute: DaskResource,
) -> dg.MaterializeResult:
    """The measured shift of every pair of overlapping tiles."""
    key = context.partition_key
    settings = configuration.settings()
    with dagster_failures(), Stopwatch() as watch:
        store = storage.writing(layout.montage_folder(key))
        montage = store.read(layout.tiles(key), Montage)
        how = settings.stitching.match
        done = match_montage(montage, how, store, run=compute.map(montage.pixels))
        store.write(layout.tile_matches(key), done.matches, tuple[TileMatch, ...])
        checks = check_matches(montage, done.matches, settings.stitching.quality)
    tag_run(context, montage)
    return dg.MaterializeResult(
        metadata={**match_summary(done), **watch.metadata(montage)},
        check_results=published_results(
            checks, "tile_matches", montage=montage, settings=settings, store=store
        ),
    )


@dg.asset(
    code_version=code_version("montage_fit"),
    group_name="stitching",
    partitions_def=montages,
    deps=["tile_matches"],
    kinds={"scipy", "json"},
    owners=_OWNERS,
    pool=MONTAGE,
    check_specs=check_specs("montage_fit", _MONTAGE_FIT_CHECKS, montages),
)
def montage_fit(
    context: dg.AssetExecutionContext, configuration: Configuration, storage: Storage
) -> dg.MaterializeResult:
    """One place for every tile, by robust least squares over all matches."""
    key = context.partition_key
    settings = configuration.settings()
    with dagster_failures(), Stopwatch() as watch:
        store = storage.writing(layout.montage_folder(key))
        montage = store.read(layout.tiles(key), Montage)
        matches = store.read(layout.tile_matches(key), tuple[TileMatch, ...])
        fit = solve_montage(montage, matches, settings=settings.stitching.solve)
        store.write(layout.montage_fit(key), fit, MontageFit)
        limits = settings.stitching.quality
        checks = (
            *check_fit(montage, fit, limits),
            check_enough_connected(montage, fit, limits),
        )
        summary = fit_summary(montage, fit, store)
    tag_run(context, montage)
    return dg.MaterializeResult(
        metadata={**summary, **watch.metadata(montage)},
        check_results=published_results(
            checks, "montage_fit", montage=montage, settings=settings, store=store
        ),
    )


# Of its own, and it may say nothing: a real montage has no truth to be compared with.
@dg.multi_asset_check(
    name="compare_with_truth",
    specs=check_specs("montage_fit", _TRUTH_CHECKS, montages),
    can_subset=True,
    pool=MONTAGE,
)
def compare_with_truth(
    context: dg.AssetCheckExecutionContext,
    configuration: Configuration,
    storage: Storage,
) -> Iterator[dg.AssetCheckResult]:
    """Compare the places with those at which a simulation imaged the tiles."""
    key = context.partition_key
    limits = configuration.settings().stitching.quality
    with dagster_failures():
        store = storage.store()
        fit = store.read(layout.montage_fit(key), MontageFit)
        checks = check_truth(fit, truth_of(key, store), limits)
    yield from check_results(checks, "montage_fit")


@dg.asset(
    code_version=code_version("mosaic"),
    group_name="stitching",
    partitions_def=montages,
    deps=["tiles", "tile_statistics", "montage_fit"],
    kinds={"dask", "zarr"},
    owners=_OWNERS,
    pool=MONTAGE,
    check_specs=check_specs("mosaic", _MOSAIC_CHECKS, montages),
)
def mosaic(
    context: dg.AssetExecutionContext,
    configuration: Configuration,
    storage: Storage,
    compute: DaskResource,
) -> dg.MaterializeResult:
    """The stitched image: OME-Zarr 0.5, sharded, with a pyramid."""
    key = context.partition_key
    settings = configuration.settings()
    with dagster_failures(), Stopwatch() as watch:
        store = storage.writing(layout.montage_folder(key))
        judged = judged_montage(key, store, settings.stitching)
        montage = judged.montage
        made = render_mosaic(
            montage,
            judged.fit,
            processed_tiles(montage, store),
            store.url(layout.mosaic(key)),
            settings=settings.stitching.render,
            review=judged.review,
            lens=lens_in_use(key, store),  # that of its matches, not a newer one
            storage_options=store.options,
            run=compute.map(montage.pixels),
        )
        summary = mosaic_summary(made, key, store)
        checks = check_mosaic(made, options=store.options)
    tag_run(context, montage)
    return dg.MaterializeResult(
        metadata={**summary, **watch.metadata(montage)},
        check_results=published_results(
            checks, "mosaic", montage=montage, settings=settings, store=store
        ),
    )


def match_summary(done: MatchedTiles) -> Metadata:
    """How many pairs agree, how well, and by which lens they were corrected."""
    kept, lens = [match for match in done.matches if match.kept], done.lens
    summary: Metadata = {
        "pairs": len(done.matches),
        "pairs matched": len(kept),
        "pairs adopted": done.adopted,
        "pairs computed": len(done.matches) - done.adopted,
    }
    if kept:
        scores = [match.score for match in kept]
        summary["score (median)"] = short(statistics.median(scores))
        summary["score (worst)"] = short(min(scores))
        summary["points (median)"] = statistics.median(match.points for match in kept)
    summary["lens correction"] = (
        "none" if lens is None else f"{lens.microscope} at {lens.magnification} x"
    )
    return summary


def fit_summary(montage: Montage, fit: MontageFit, store: Store) -> Metadata:
    """How well the places explain the matches, and who was not believed."""
    groups = 1 + max((place.component for place in fit.placements), default=0)
    residuals = residuals_of(fit)
    return {
        **picture_file(
            "residuals",
            residual_plot(montage, fit),
            shows="residuals",
            store=store,
            name=layout.residual_plot(montage.acquisition_id),
        ),
        "tiles placed": len(fit.placements),
        "residual rms (px)": short(residuals.rms_px),
        "residual median (px)": short(residuals.median_px),
        "residual worst (px)": short(residuals.worst_px),
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


def mosaic_summary(mosaic: Mosaic, key: str, store: Store) -> Metadata:
    """A small picture, size, place, and how to look at the whole."""
    local = local_path(mosaic.url)
    height, width = mosaic.shape
    return {
        **picture_file(
            "preview",
            mosaic_preview(mosaic.url, options=store.options),
            shows="mosaic",
            store=store,
            name=layout.mosaic_preview(key),
        ),
        "open it with": code(f"em-platform view {local or mosaic.url}"),
        "path": place(mosaic.url),
        "height (px)": height,
        "width (px)": width,
        "Mpix": round(mosaic.mpix, 2),
        "levels": mosaic.levels,
        "review": _review(mosaic.review),
    }


def _review(review: Review) -> dg.MetadataValue:
    """Whether the mosaic may be used as it is, else why not."""
    if review.passed:
        return dg.MetadataValue.text("passed")
    return dg.MetadataValue.md(f"**needs review**\n\n{bullets(review.reasons)}")
