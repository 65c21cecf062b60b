"""The frames of a montage, and the 8-bit tiles that they become."""

import statistics
from collections.abc import Iterator, Sequence

import dagster as dg

from em_platform.acquisition.montages.stored import as_first_planned
from em_platform.acquisition.processing import ProcessedTiles, finish_montage
from em_platform.assets.checks import check_specs, dagster_failures, published_results
from em_platform.assets.code_version import code_version
from em_platform.assets.metadata import (
    Metadata,
    Stopwatch,
    failure_table,
    picture_file,
    short,
    tag_run,
)
from em_platform.config import QualitySettings
from em_platform.model import Montage, TileStats
from em_platform.partitions import MONTAGE, montages
from em_platform.resources.acquisition import Microscope
from em_platform.resources.dask import DaskResource
from em_platform.resources.storage import Configuration, Storage
from em_platform.stitching.pictures import tile_map
from em_platform.stitching.quality import (
    check_completeness,
    check_enough_tiles,
    check_tiles,
)
from em_platform.stitching.tile_rules import plain_rules
from em_platform.storage import Store, layout

_OWNERS = ["team:microscopy"]

_TILES_CHECKS = {
    "montage_is_complete": "Every expected tile is present and not blank.",
    "enough_tiles_are_present": "Enough tiles are present for a usable mosaic.",
}
_TILE_STATISTICS_CHECKS = {
    "tiles_are_in_focus": "Every tile is as sharp as the limit asks.",
    "tiles_have_contrast": "Every tile has contrast: it shows specimen.",
    **{
        rule.name: f"Every tile is {rule.good}."
        for rule in plain_rules(QualitySettings())
    },
}


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
        # Until the run ends: another one would mix its files with ours (decision 18).
        store = storage.writing(layout.montage_folder(key))
        montage = as_first_planned(microscope.montage(key), store)
        store.write(layout.montage(key), montage, Montage)
    tag_run(context, montage)
    return dg.MaterializeResult(metadata=montage_summary(montage))


@dg.multi_asset(
    name="finish_tiles",
    specs=[
        dg.AssetSpec(
            "tiles",
            code_version=code_version("tiles"),
            group_name="acquisition",
            deps=["raw_tiles"],
            kinds={"dask", "tiff"},
            owners=_OWNERS,
            description="The montage's frames as 8-bit images: flat-field corrected "
            "and stretched where the settings say so.",
        ),
        dg.AssetSpec(
            "tile_statistics",
            code_version=code_version("tile_statistics"),
            group_name="acquisition",
            deps=["tiles"],
            kinds={"dask", "json"},
            owners=_OWNERS,
            description="What each tile's pixels say: focus, mean, standard deviation, "
            "saturation, histogram; measured in the pass that finishes the tiles.",
        ),
    ],
    partitions_def=montages,
    pool=MONTAGE,
    # Completeness is a check of `tiles`: only there it is known which frames are black.
    check_specs=[
        *check_specs("tiles", _TILES_CHECKS, montages),
        *check_specs("tile_statistics", _TILE_STATISTICS_CHECKS, montages),
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
        done = finish_montage(montage, settings, store, run=compute.map(montage.pixels))
        store.write(layout.tiles(key), done.montage, Montage)
        name = layout.tile_statistics(key)
        store.write(name, done.statistics, tuple[TileStats, ...])
        summary = statistics_summary(done.montage, done.statistics, store)
        counts = adoption_summary(done)
        limits = settings.stitching.quality
    tag_run(context, montage)
    yield dg.MaterializeResult(
        asset_key="tiles",
        metadata={
            **montage_summary(done.montage),
            **counts,
            **watch.metadata(done.montage),
        },
        check_results=published_results(
            (
                *check_completeness(done.montage),
                check_enough_tiles(done.montage, limits),
            ),
            "tiles",
            montage=montage,
            settings=settings,
            store=store,
        ),
    )
    yield dg.MaterializeResult(
        asset_key="tile_statistics",
        metadata={**summary, **counts},
        check_results=published_results(
            check_tiles(done.statistics, limits),
            "tile_statistics",
            montage=montage,
            settings=settings,
            store=store,
        ),
    )


def montage_summary(montage: Montage) -> Metadata:
    """How many tiles of what size, and what was excluded."""
    size = montage.tile_size
    summary: Metadata = {
        "tiles": len(montage.tiles),
        "tiles expected": montage.expected_tiles,
        "excluded": failure_table(montage.failures),
        "tile height (px)": size.height_px,
        "tile width (px)": size.width_px,
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


def statistics_summary(
    montage: Montage, tiles: Sequence[TileStats], store: Store
) -> Metadata:
    """A map of the focus; the middle and the worst of focus, spread, saturation."""
    if not tiles:
        return {"tiles": 0}
    blurred = min(tiles, key=lambda tile: tile.focus)
    focus = {tile.tile_id: tile.focus for tile in tiles}
    return {
        **picture_file(
            "focus of each tile",
            tile_map(montage, focus, "focus"),
            shows="focus",
            store=store,
            name=layout.focus_map(montage.acquisition_id),
        ),
        "tiles": len(tiles),
        "focus (median)": short(statistics.median(tile.focus for tile in tiles)),
        "focus (worst)": short(blurred.focus),
        "worst focus in": blurred.tile_id,
        "mean grey level": short(statistics.fmean(tile.mean for tile in tiles)),
        "min standard deviation": short(min(tile.std for tile in tiles)),
        "max saturated fraction": short(max(t.saturated_fraction for t in tiles)),
    }


def adoption_summary(done: ProcessedTiles) -> Metadata:
    """How many tiles the pipeline had made, and how many were made now."""
    computed = len(done.statistics) - done.adopted
    return {"tiles adopted": done.adopted, "tiles computed": computed}
