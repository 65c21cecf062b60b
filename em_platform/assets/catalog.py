"""What is kept of a montage for those who look for it later."""

import dagster as dg

from em_platform.assets.failures import told_to_dagster
from em_platform.assets.summaries import record_summary
from em_platform.catalog.record_files import first_recorded, write_record
from em_platform.catalog.records import dataset_record as record_of
from em_platform.formats.ome_zarr import open_level
from em_platform.model import Montage, MontageFit, TileStats
from em_platform.partitions import montages
from em_platform.resources.configuration import Configuration
from em_platform.resources.storage import Storage
from em_platform.stitching.stitch import check_montage
from em_platform.storage import layout


@dg.asset(
    group_name="catalog",
    partitions_def=montages,
    deps=["tile_statistics", "montage_fit", "mosaic"],
    kinds={"json"},
    owners=["team:data-management"],
)
def dataset_record(
    context: dg.AssetExecutionContext, configuration: Configuration, storage: Storage
) -> dg.MaterializeResult:
    """The catalog record of one montage: what it is, how large, how good."""
    key, store = context.partition_key, storage.store()
    settings = configuration.settings().stitching
    with told_to_dagster():
        montage = store.read(layout.tiles(key), Montage)
        fit = store.read(layout.montage_fit(key), MontageFit)
        stats = store.read(layout.tile_statistics(key), tuple[TileStats, ...])
        url = store.url(layout.mosaic(key))
        height, width = open_level(url, 0, storage_options=store.options).shape
        record = record_of(
            montage,
            fit,
            url=url,
            shape=(height, width),
            checks=check_montage(montage, stats, fit=fit, settings=settings),
            stats=stats,
            chunk_px=settings.render.chunk_px,
            recorded_at=first_recorded(store, layout.dataset_record(key)),
        )
        write_record(store, layout.dataset_record(key), record)
    return dg.MaterializeResult(
        metadata=record_summary(record, store.url(layout.dataset_record(key)))
    )
