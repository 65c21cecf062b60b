"""Items of public sources: metadata of each, its files, its volume, its record.

Each source of `ingest.sources.SOURCES` has the same four assets; one that is added to
that table has them, too.
"""

import dagster as dg

from em_platform.assets.checks import check_results, check_specs, dagster_failures
from em_platform.assets.ingest_summaries import (
    entry_summary,
    raw_summary,
    record_summary,
    volume_summary,
)
from em_platform.assets.metadata import Stopwatch, step_of
from em_platform.ingest import checks
from em_platform.ingest.sources import SOURCES
from em_platform.jobs import HEAVY_POOL, is_heavy, source_pool
from em_platform.model.ingest import Entry, RawItem, VolumeItem
from em_platform.partitions import items
from em_platform.resources.dask import DaskResource
from em_platform.resources.ingest import LoggedProgress, PublicSources, work_bytes
from em_platform.resources.storage import Configuration, Storage
from em_platform.storage import layout

_OWNERS = ["team:data-management"]
# For unforeseen errors; those of the platform go through `dagster_failures`.
_AGAIN = dg.RetryPolicy(
    max_retries=2,
    delay=10,
    backoff=dg.Backoff.EXPONENTIAL,
    jitter=dg.Jitter.PLUS_MINUS,
)

# Asset of a source -> its checks; what they state: `ingest.checks.CHECKS`.
_CHECKS = {
    "raw": ("files_are_whole", "no_chunks_are_missing"),
    "volume": ("shape_is_expected", "voxel_size_is_expected", "volume_is_not_blank"),
    "record": ("record_is_valid", "dataset_is_new"),
}


def _check_specs(source: str, name: str) -> list[dg.AssetCheckSpec]:
    sentences = {check: checks.CHECKS[check] for check in _CHECKS[name]}
    return check_specs([source, name], sentences, items[source])


def _entry(source: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=[source, "entry"],
        group_name=f"ingest_{source}",
        partitions_def=items[source],
        kinds={"json", source},
        owners=_OWNERS,
        pool=source_pool(source),  # politeness: one step at a time asks it
        retry_policy=_AGAIN,
        tags={"em/source": source},
        description=f"Metadata of one item of {source}, as received and as parsed.",
    )
    def entry(
        context: dg.AssetExecutionContext, sources: PublicSources, storage: Storage
    ) -> dg.MaterializeResult:
        # Loaded by the step: heavy, and definitions are loaded for other reasons too.
        from em_platform.ingest import steps

        key = context.partition_key
        with dagster_failures():
            store = storage.writing(layout.item_folder(source, key))
            found = steps.take_entry(sources.source(source), key, store)
        url = store.url(layout.ingested(source, key, "entry"))
        return dg.MaterializeResult(metadata=entry_summary(found, url))

    return entry


def _raw(source: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=[source, "raw"],
        group_name=f"ingest_{source}",
        partitions_def=items[source],
        deps=[dg.AssetKey([source, "entry"])],
        kinds={"binary", source},
        owners=_OWNERS,
        pool=source_pool(source),
        retry_policy=_AGAIN,
        check_specs=_check_specs(source, "raw"),
        tags={"em/source": source},
        description=f"The complete files of one item of {source}; of an array that is "
        "read in place, how many chunks it has there.",
    )
    def raw(
        context: dg.AssetExecutionContext,
        configuration: Configuration,
        sources: PublicSources,
        storage: Storage,
    ) -> dg.MaterializeResult:
        from em_platform.ingest import steps

        key = context.partition_key
        settings = configuration.settings()
        with dagster_failures(), Stopwatch() as watch:
            store = storage.writing(layout.item_folder(source, key))
            entry = store.read(layout.ingested(source, key, "entry"), Entry)
            fetched = steps.take_raw(
                sources.source(source),
                entry,
                store,
                settings=settings,
                progress=LoggedProgress(context.log),
            )
            outcomes = (
                checks.files_are_whole(entry, fetched),
                checks.no_chunks_are_missing(fetched, settings.ingest.quality),
            )
        folder = steps.raw_folder(entry, settings)
        return dg.MaterializeResult(
            metadata=raw_summary(entry, fetched, folder=folder, seconds=watch.seconds),
            check_results=check_results(outcomes, [source, "raw"]),
        )

    return raw


def _volume(source: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=[source, "volume"],
        group_name=f"ingest_{source}",
        partitions_def=items[source],
        deps=[dg.AssetKey([source, "raw"])],
        kinds={"dask", "zarr", source},
        owners=_OWNERS,
        # Large volumes are written one at a time, whatever source they are of.
        pool=HEAVY_POOL if is_heavy(source) else None,
        retry_policy=_AGAIN,
        check_specs=_check_specs(source, "volume"),
        tags={"em/source": source},
        description=f"One item of {source} as OME-Zarr 0.5: sharded, with a pyramid.",
    )
    def volume(
        context: dg.AssetExecutionContext,
        configuration: Configuration,
        sources: PublicSources,
        storage: Storage,
        compute: DaskResource,
    ) -> dg.MaterializeResult:
        from em_platform.ingest import steps

        key = context.partition_key
        settings = configuration.settings()
        with dagster_failures():
            store = storage.writing(layout.item_folder(source, key))
            entry = store.read(layout.ingested(source, key, "entry"), Entry)
            fetched = store.read(layout.ingested(source, key, "raw"), RawItem)
            steps.take_volume(
                sources.source(source),
                entry,
                store,
                settings=settings,
                run=compute.map(work_bytes(entry, fetched)),
            )
            item = store.read(layout.ingested(source, key, "volume"), VolumeItem)
            summary = volume_summary(item, store, layout.preview(source, key))
            outcomes = (
                checks.shape_is_expected(entry, item.written),
                checks.voxel_size_is_expected(entry, item, settings.ingest.quality),
                checks.volume_is_not_blank(item.written, settings.ingest.quality),
            )
        return dg.MaterializeResult(
            metadata=summary, check_results=check_results(outcomes, [source, "volume"])
        )

    return volume


def _record(source: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=[source, "record"],
        group_name=f"ingest_{source}",
        partitions_def=items[source],
        deps=[dg.AssetKey([source, "volume"])],
        kinds={"json", source},
        owners=_OWNERS,
        retry_policy=_AGAIN,
        check_specs=_check_specs(source, "record"),
        tags={"em/source": source},
        description=f"The catalog record of one item of {source}, checked.",
    )
    def record(
        context: dg.AssetExecutionContext,
        configuration: Configuration,
        storage: Storage,
    ) -> dg.MaterializeResult:
        from em_platform.ingest import steps

        key = context.partition_key
        with dagster_failures():
            store = storage.writing(layout.item_folder(source, key))
            written, found = steps.take_record(
                source,
                key,
                store,
                settings=configuration.settings(),
                dagster=step_of(context),
            )
        outcomes = [check for check in found if check.name in _CHECKS["record"]]
        return dg.MaterializeResult(
            metadata=record_summary(written, store.url(layout.record(source, key))),
            check_results=check_results(outcomes, [source, "record"]),
        )

    return record


# All assets of all public sources. Made by functions: those of a loop would all see
# its last source.
ingest_assets = [
    make(source) for source in SOURCES for make in (_entry, _raw, _volume, _record)
]
