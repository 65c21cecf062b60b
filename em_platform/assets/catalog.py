"""What is kept of each dataset for those who look for it later, and of all together."""

from collections.abc import Iterator

import dagster as dg

from em_platform.acquisition.montages.review import judged_montage
from em_platform.assets.catalog_summaries import catalog_summary, report_summary
from em_platform.assets.checks import RULES, check_results, check_specs
from em_platform.assets.failures import dagster_failures
from em_platform.assets.summaries import record_summary
from em_platform.catalog.checks import check_catalog
from em_platform.catalog.consolidate import consolidate
from em_platform.catalog.mosaic_levels import mosaic_levels
from em_platform.catalog.record_files import first_recorded, write_record
from em_platform.catalog.records import dataset_record as record_of
from em_platform.ingest.sources import SOURCES
from em_platform.partitions import montages
from em_platform.resources.configuration import Configuration
from em_platform.resources.storage import Storage
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
    key = context.partition_key
    settings = configuration.settings().stitching
    with dagster_failures():
        store = storage.writing(layout.montage_folder(key))
        judged = judged_montage(key, store, settings)
        montage, url = judged.montage, store.url(layout.mosaic(key))
        image = mosaic_levels(url, pixel_nm=montage.pixel_nm, options=store.options)
        record = record_of(
            montage,
            judged.fit,
            url=url,
            image=image,
            checks=judged.checks,
            stats=judged.stats,
            recorded_at=first_recorded(store, layout.dataset_record(key)),
        )
        write_record(store, layout.dataset_record(key), record)
    return dg.MaterializeResult(
        metadata=record_summary(record, store.url(layout.dataset_record(key)))
    )


_RECORDS = [
    dg.AssetKey("dataset_record"),
    *(dg.AssetKey([source, "record"]) for source in SOURCES),
]


@dg.multi_asset(
    name="consolidated_catalog",
    group_name="catalog",
    specs=[
        dg.AssetSpec(
            "metadata_catalog",
            deps=_RECORDS,
            kinds={"json"},
            owners=["team:data-management"],
            description="All records of all sources in one file, with what they say "
            "together.",
        ),
        dg.AssetSpec(
            "validation_report",
            deps=_RECORDS,
            kinds={"json"},
            owners=["team:data-management"],
            description="Every error of every record, as JSON, CSV and a page.",
        ),
    ],
    check_specs=[*check_specs("metadata_catalog"), *check_specs("validation_report")],
)
def consolidated_catalog(
    configuration: Configuration, storage: Storage
) -> Iterator[dg.MaterializeResult]:
    """The catalog and its report are made in one look at all records."""
    with dagster_failures():
        made = consolidate(storage.store(), configuration.settings().catalog)
    checks = check_catalog(made)
    for asset, summary in (
        ("metadata_catalog", catalog_summary(made)),
        ("validation_report", report_summary(made)),
    ):
        yield dg.MaterializeResult(
            asset_key=asset,
            metadata=summary,
            check_results=check_results(
                [check for check in checks if check.name in RULES[asset]], asset
            ),
        )
