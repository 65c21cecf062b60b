"""What is kept of each dataset for those who look for it later, and of all together."""

from collections.abc import Iterator

import dagster as dg

from em_platform.acquisition.montages.review import judged_montage
from em_platform.assets.checks import check_results, check_specs, dagster_failures
from em_platform.assets.code_version import code_version
from em_platform.assets.metadata import (
    Metadata,
    human_bytes,
    place,
    record_summary,
    step_of,
    table,
    tag_run,
)
from em_platform.catalog.consolidate import Consolidated, check_catalog, consolidate
from em_platform.catalog.record_files import (
    as_first_made,
    first_recorded,
    write_record,
)
from em_platform.catalog.records import dataset_record as record_of
from em_platform.catalog.records import mosaic_levels
from em_platform.ingest.sources import SOURCES
from em_platform.partitions import MONTAGE, montages
from em_platform.resources.storage import Configuration, Storage
from em_platform.stitching.render import mosaic_preview
from em_platform.storage import layout

_METADATA_CATALOG_CHECKS = {
    "no_duplicates": "No two datasets have the same voxels, file or name.",
    "catalog_is_complete": "Every dataset is complete: none failed, waits or needs "
    "review.",
}
_VALIDATION_REPORT_CHECKS = {
    "records_are_valid": "Every record keeps the schema and all rules."
}


@dg.asset(
    code_version=code_version("dataset_record"),
    group_name="catalog",
    partitions_def=montages,
    deps=["tile_statistics", "montage_fit", "mosaic"],
    pool=MONTAGE,
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
        name = layout.mosaic_preview(key)
        store.write_bytes(name, mosaic_preview(url, options=store.options))
        image = mosaic_levels(url, pixel_nm=montage.pixel_nm, options=store.options)
        record = record_of(
            montage,
            judged.fit,
            url=url,
            image=image,
            checks=judged.checks,
            preview=store.url(name),
            # Not now: the same montage recorded again gives the same bytes.
            recorded_at=first_recorded(store, layout.dataset_record(key)),
            dagster=step_of(context),
            parameters=settings.model_dump(mode="json"),
        )
        record = as_first_made(record, store, layout.dataset_record(key))
        # Last: it names the preview and the mosaic, which must be there.
        write_record(store, layout.dataset_record(key), record)
    tag_run(context, montage)
    return dg.MaterializeResult(
        metadata=record_summary(record, store.url(layout.dataset_record(key)))
    )


_RECORDS = [
    dg.AssetKey("dataset_record"),
    dg.AssetKey("sim_record"),
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
    check_specs=[
        *check_specs("metadata_catalog", _METADATA_CATALOG_CHECKS),
        *check_specs("validation_report", _VALIDATION_REPORT_CHECKS),
    ],
)
def consolidated_catalog(
    configuration: Configuration, storage: Storage
) -> Iterator[dg.MaterializeResult]:
    """The catalog and its report are made in one look at all records."""
    with dagster_failures():
        made = consolidate(storage.store(), configuration.settings().catalog)
    checks = check_catalog(made)
    for asset, names, summary in (
        ("metadata_catalog", _METADATA_CATALOG_CHECKS, catalog_summary(made)),
        ("validation_report", _VALIDATION_REPORT_CHECKS, report_summary(made)),
    ):
        yield dg.MaterializeResult(
            asset_key=asset,
            metadata=summary,
            check_results=check_results(
                [check for check in checks if check.name in names], asset
            ),
        )


def catalog_summary(made: Consolidated) -> Metadata:
    """How many records of what, how large, and where the catalog lies."""
    summary = made.catalog["summary"]
    sizes = summary["data_volume_bytes"]
    sources = [
        (source, count, human_bytes(sizes["by_source"].get(source)))
        for source, count in summary["by_source"].items()
    ]
    summary_rows: Metadata = {
        "records": summary["records"],
        "by source": table(("source", "records", "size"), sources),
        "by status": table(("status", "records"), [*summary["by_status"].items()]),
        "size": human_bytes(sizes["total"]),
        "duplicates": _duplicates(made),
        "superseded": summary["superseded"],
        "often missing": _often_missing(made),
        "state of": made.catalog["metadata"]["generated_at"] or "no record yet",
        "path": place(made.urls[0]),
    }
    return summary_rows


def report_summary(made: Consolidated) -> Metadata:
    """How many records are valid, what is wrong with the others, and the pages."""
    wrong = [
        (each.found.place, "; ".join(each.findings.errors))
        for each in made.judged
        if not each.is_valid
    ]
    checked = made.catalog["validation"]
    summary_rows: Metadata = {
        "valid": checked["valid_files"],
        "invalid": checked["invalid_files"],
        "damaged files": made.catalog["summary"]["parsing_errors"],
        "warnings": made.report["summary"]["warnings"],
        "what is wrong": table(("record", "errors"), wrong) if wrong else "nothing",
    }
    for url in made.urls[1:]:
        summary_rows[url.rpartition("/")[2]] = place(url)
    return summary_rows


def _duplicates(made: Consolidated) -> dg.MetadataValue:
    rows = [(d["by"], d["value"], ", ".join(d["records"])) for d in made.duplicates]
    if not rows:
        return dg.MetadataValue.text("none")
    return table(("same", "value", "records"), rows)


def _often_missing(made: Consolidated) -> dg.MetadataValue:
    missing = made.catalog["data_quality"]["common_missing_fields"]
    if not missing:
        return dg.MetadataValue.text("nothing")
    return table(("field", "records without it"), [*missing.items()])
