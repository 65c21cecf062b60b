"""Tiles -> matches -> one place for every tile -> mosaic."""

from datetime import timedelta

import dagster as dg

from em_platform.acquisition.montages.lenses import choose_lens, held_lens
from em_platform.acquisition.montages.review import judged_montage
from em_platform.acquisition.processing import processed_images, recipe_of
from em_platform.assets.checks import check_results, check_specs, spoken_results
from em_platform.assets.failures import dagster_failures
from em_platform.assets.metadata import (
    Stopwatch,
)
from em_platform.assets.summaries import (
    fit_summary,
    lens_summary,
    match_summary,
    mosaic_summary,
)
from em_platform.model import LensModel, Montage, MontageFit, TileMatch
from em_platform.partitions import lens_of_key, lenses, montages
from em_platform.resources.acquisition import Microscope
from em_platform.resources.configuration import Configuration
from em_platform.resources.dask import DaskResource
from em_platform.resources.storage import Storage
from em_platform.stitching.finished import check_lens, check_mosaic
from em_platform.stitching.lens import fit_lens
from em_platform.stitching.match import match_pairs
from em_platform.stitching.quality import check_fit, check_matches
from em_platform.stitching.render import render_mosaic
from em_platform.stitching.solve import solve_montage
from em_platform.storage import layout

_OWNERS = ["team:image-processing"]


class LensMontage(dg.Config):
    """Which montage shows the lens: one that was imaged with 60 % overlap."""

    acquisition_id: str


@dg.asset(
    group_name="stitching",
    partitions_def=lenses,
    kinds={"dask", "json"},
    owners=_OWNERS,
    # Lenses drift: an old calibration bends the seams of every later montage.
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=60), warn_window=timedelta(days=30)
    ),
    check_specs=check_specs("lens_correction", lenses),
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
        run = compute.map()
        how = settings.stitching.match
        matches = match_pairs(montage, images, settings=how, run=run)
        lens = fit_lens(montage, matches, magnification=magnification)
        store.write(layout.lens(name, magnification), lens, LensModel)
        checks = check_lens(lens)
    return dg.MaterializeResult(
        metadata=lens_summary(lens, montage),
        check_results=check_results(checks, "lens_correction"),
    )


@dg.asset(
    group_name="stitching",
    partitions_def=montages,
    deps=[
        "tiles",
        dg.AssetDep("lens_correction", partition_mapping=dg.AllPartitionMapping()),
    ],
    kinds={"dask", "json"},
    owners=_OWNERS,
    check_specs=check_specs("tile_matches", montages),
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
        images = processed_images(montage, store)
        lens, run = choose_lens(montage, store), compute.map()
        matches = match_pairs(
            montage, images, settings=settings.stitching.match, lens=lens, run=run
        )
        store.write(layout.tile_matches(key), matches, tuple[TileMatch, ...])
        checks = check_matches(montage, matches, settings.stitching.quality)
    return dg.MaterializeResult(
        metadata={**match_summary(matches, lens), **watch.metadata(montage)},
        check_results=spoken_results(checks, montage=montage, settings=settings),
    )


@dg.asset(
    group_name="stitching",
    partitions_def=montages,
    deps=["tile_matches"],
    kinds={"scipy", "json"},
    owners=_OWNERS,
    check_specs=check_specs("montage_fit", montages),
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
        checks = check_fit(montage, fit, settings.stitching.quality)
        summary = fit_summary(montage, fit)
    return dg.MaterializeResult(
        metadata={**summary, **watch.metadata(montage)},
        check_results=spoken_results(checks, montage=montage, settings=settings),
    )


@dg.asset(
    group_name="stitching",
    partitions_def=montages,
    deps=["tiles", "tile_statistics", "montage_fit"],
    kinds={"dask", "zarr"},
    owners=_OWNERS,
    check_specs=check_specs("mosaic", montages),
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
            processed_images(montage, store),
            store.url(layout.mosaic(key)),
            settings=settings.stitching.render,
            review=judged.review,
            lens=held_lens(key, store),
            storage_options=store.options,
            run=compute.map(),
        )
        summary = mosaic_summary(made, store.options)
        checks = check_mosaic(made, options=store.options)
    return dg.MaterializeResult(
        metadata={**summary, **watch.metadata(montage)},
        check_results=spoken_results(checks, montage=montage, settings=settings),
    )
