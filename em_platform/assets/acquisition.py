"""The frames of a montage, and the 8-bit tiles that they become."""

from collections.abc import Iterator

import dagster as dg

from em_platform.acquisition.montages.planned import as_first_planned
from em_platform.acquisition.processing import finish_montage
from em_platform.assets.checks import check_specs, spoken_results
from em_platform.assets.failures import dagster_failures
from em_platform.assets.metadata import (
    Stopwatch,
)
from em_platform.assets.summaries import montage_summary, statistics_summary
from em_platform.model import Montage, TileStats
from em_platform.partitions import montages
from em_platform.resources.acquisition import Microscope
from em_platform.resources.configuration import Configuration
from em_platform.resources.dask import DaskResource
from em_platform.resources.storage import Storage
from em_platform.stitching.quality import check_completeness, check_tiles
from em_platform.storage import layout

_OWNERS = ["team:microscopy"]


@dg.asset(
    group_name="acquisition",
    partitions_def=montages,
    kinds={"pigeon", "tiff"},
    owners=_OWNERS,
)
def raw_tiles(
    context: dg.AssetExecutionContext, microscope: Microscope, storage: Storage
) -> dg.MaterializeResult:
    """The frames of one montage as the camera saved them, and where each lies."""
    key = context.partition_key
    with dagster_failures():
        store = storage.writing(layout.montage_folder(key))
        montage = as_first_planned(microscope.montage(key), store)
        store.write(layout.montage(key), montage, Montage)
    return dg.MaterializeResult(metadata=montage_summary(montage))


@dg.multi_asset(
    name="finish_tiles",
    specs=[
        dg.AssetSpec(
            "tiles",
            group_name="acquisition",
            deps=["raw_tiles"],
            kinds={"dask", "tiff"},
            owners=_OWNERS,
            description="The montage's frames as 8-bit images: flat-field corrected "
            "and stretched where the settings say so.",
        ),
        dg.AssetSpec(
            "tile_statistics",
            group_name="acquisition",
            deps=["tiles"],
            kinds={"dask", "json"},
            owners=_OWNERS,
            description="What each tile's pixels say: focus, mean, standard deviation, "
            "saturation, histogram; measured in the pass that finishes the tiles.",
        ),
    ],
    partitions_def=montages,
    # Completeness is a check of `tiles`: only there it is known which frames are black.
    check_specs=[
        *check_specs("tiles", montages),
        *check_specs("tile_statistics", montages),
    ],
)
def finish_tiles(
    context: dg.AssetExecutionContext,
    configuration: Configuration,
    storage: Storage,
    compute: DaskResource,
) -> Iterator[dg.MaterializeResult]:
    """Finish the tiles and measure them in one pass over their pixels."""
    key = context.partition_key
    settings = configuration.settings()
    with dagster_failures(), Stopwatch() as watch:
        store = storage.writing(layout.montage_folder(key))
        montage = store.read(layout.montage(key), Montage)
        done = finish_montage(montage, settings, store, run=compute.map())
        store.write(layout.tiles(key), done.montage, Montage)
        name = layout.tile_statistics(key)
        store.write(name, done.statistics, tuple[TileStats, ...])
        summary = statistics_summary(done.montage, done.statistics)
        limits = settings.stitching.quality
    yield dg.MaterializeResult(
        asset_key="tiles",
        metadata={**montage_summary(done.montage), **watch.metadata(done.montage)},
        check_results=spoken_results(
            check_completeness(done.montage), montage=montage, settings=settings
        ),
    )
    yield dg.MaterializeResult(
        asset_key="tile_statistics",
        metadata=summary,
        check_results=spoken_results(
            check_tiles(done.statistics, limits), montage=montage, settings=settings
        ),
    )
