"""The steps of an ingest: entry -> raw -> volume -> record.

Each step takes what the one before left in the store, and leaves its own result there;
done again, it does only what is missing or has changed. What goes wrong is recorded in
the item's catalog record before it is raised.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from em_platform.catalog.ingested import record_of_item
from em_platform.catalog.record_files import (
    ci_metadata,
    content_of,
    first_recorded,
    mark,
)
from em_platform.catalog.validate import check_record
from em_platform.config import Settings
from em_platform.errors import OutputBusy, StorageError
from em_platform.ingest.checks import check_item, record_is_valid
from em_platform.ingest.fetch import remove_fetched
from em_platform.ingest.source import Progress, Silent, Source, described, with_tags
from em_platform.ingest.sources import SOURCES, settings_of
from em_platform.model import Check
from em_platform.model.dataset import DagsterProvenance, DatasetRecord, Status
from em_platform.model.ingest import Entry, Estimate, RawItem, VolumeItem
from em_platform.model.volume import WrittenVolume
from em_platform.ome_zarr import Run, forget_unfinished, mid_sections, write_volume
from em_platform.storage import Store, layout
from em_platform.storage.guard import is_whole
from em_platform.storage.manifest import Product


def take_entry(source: Source, key: str, store: Store) -> Entry:
    """Ask the source what the item is."""
    with recorded(store, source.name, key):
        # A volume that stands stays complete while its source is asked again.
        if not store.exists(layout.ingested(source.name, key, "volume")):
            mark(store, source.name, key, Status.PROCESSING, step="entry")
        entry = source.describe(key)
        store.write(layout.ingested(source.name, key, "entry"), entry, Entry)
    return entry


def take_raw(
    source: Source,
    entry: Entry,
    store: Store,
    *,
    settings: Settings,
    progress: Progress | None = None,
) -> RawItem:
    """Fetch the item's files, or look whether its array is whole.

    Of a volume that stands nothing is asked, unless the source names other files now,
    or did not hold all chunks when they were read.
    """
    with recorded(store, source.name, entry.key):
        saved = _saved_if_written(entry, store, settings)
        if saved is not None and not saved.missing_chunks:
            # Counts what came in this call, and nothing did.
            raw = saved.model_copy(update={"fetched_bytes": 0})
        else:
            if saved is None:
                mark(store, source.name, entry.key, Status.PROCESSING, step="raw")
            folder = raw_folder(entry, settings)
            raw = source.fetch(entry, folder, progress or Silent())
        store.write(layout.ingested(source.name, entry.key, "raw"), raw, RawItem)
    return raw


def take_volume(
    source: Source,
    entry: Entry,
    store: Store,
    *,
    settings: Settings,
    run: Run = map,
) -> WrittenVolume:
    """Write the item's voxels as OME-Zarr; nothing happens where they stand already."""
    name = layout.ingested(source.name, entry.key, "volume")
    with recorded(store, source.name, entry.key):
        raw = store.read(layout.ingested(source.name, entry.key, "raw"), RawItem)
        target = store.url(layout.volume(source.name, entry.key))
        if is_written(entry, raw, store, settings):
            # A kill right after the volume stood leaves its marks of progress.
            forget_unfinished(target, store.options)
            return store.read(name, VolumeItem).written
        mark(store, source.name, entry.key, Status.SAVING_DATA, step="volume")
        volume = source.open(entry, raw_folder(entry, settings))
        override = settings_of(source.name, settings).voxel_size_nm

        # Called once the volume stands; a call that is killed before it resumes.
        def keep(written: WrittenVolume) -> None:
            item = VolumeItem(
                written=written,
                fingerprint=fingerprint(entry, raw, settings),
                stated_voxel_nm=volume.info.voxel_size_nm,
                tags=volume.info.tags,
            )
            store.write(name, item, VolumeItem)

        written = write_volume(
            target,
            described(volume, entry, override=override),
            settings=settings.ingest.output,
            name=entry.title,
            product=volume_product(source.name, entry.key),
            fingerprint=fingerprint(entry, raw, settings),
            # The mean of two labels would be a third one.
            pooling="mode" if entry.content == "labels" else "mean",
            attributes={"em_platform": {"source": entry.source, "key": entry.key}},
            storage_options=store.options,
            run=run,
            keep=keep,
        )
        # Only now: a killed writer reads these files again.
        if not settings.ingest.transfer.keep_raw:
            who = f"{source.name} {entry.key}"
            remove_fetched(raw_folder(entry, settings), who=who)
    return written


def take_record(
    name: str,
    key: str,
    store: Store,
    *,
    settings: Settings,
    dagster: DagsterProvenance | None = None,
) -> tuple[DatasetRecord, tuple[Check, ...]]:
    """Write the catalog record of what the other steps have made, and check it."""
    with recorded(store, name, key):
        entry = store.read(layout.ingested(name, key, "entry"), Entry)
        raw = store.read(layout.ingested(name, key, "raw"), RawItem)
        item = store.read(layout.ingested(name, key, "volume"), VolumeItem)
        checks = check_item(
            entry,
            raw,
            item=item,
            quality=settings.ingest.quality,
            same_voxels=_same_voxels(name, key, item, store),
        )
        record = record_of_item(
            with_tags(entry, item.tags),
            raw,
            item.written,
            checks=checks,
            raw_folder=str(raw_folder(entry, settings)) if entry.files else "",
            snapshot_url=store.url(layout.ingested(name, key, "entry")),
            volume_json_url=store.url(layout.ingested(name, key, "volume")),
            preview=_preview(name, key, item.written.url, store),
            dagster=dagster,
            ci_metadata=ci_metadata(settings.catalog),
            created_at=first_recorded(store, layout.record(name, key)),
        )
        record = mark(store, name, key, Status.COMPLETE, step="record", record=record)
        errors = check_record(content_of(record))
    return record, (*checks, record_is_valid(errors))


def estimate(source: Source, key: str, store: Store, *, settings: Settings) -> Estimate:
    """What an item would cost; asks the source, fetches and writes nothing."""
    entry = source.describe(key)
    done = _saved_if_written(entry, store, settings) is not None
    voxels = math.prod(entry.shape) if entry.shape and entry.dtype else None
    return Estimate(
        source=source.name,
        key=key,
        title=entry.title,
        fetch_bytes=0 if done else entry.estimated_bytes,
        volume_bytes=voxels and voxels * np.dtype(entry.dtype).itemsize,
        already_there=done,
    )


def raw_folder(entry: Entry, settings: Settings) -> Path:
    """Where the item's files lie as they were fetched."""
    # Only idr has a folder of its own, by macroscope's IDR_OUTPUT_DIR.
    own = getattr(getattr(settings.ingest, entry.source, None), "raw_folder", "")
    root = Path(own).absolute() if own else settings.raw_folder / entry.source
    return root / entry.key


def fingerprint(entry: Entry, raw: RawItem, settings: Settings) -> str:
    """Names the voxels and the way in which they are stored."""
    parts = (
        # The title too, as it stands in the image's own metadata.
        (entry.title, entry.voxel_size_nm, entry.origin_nm, entry.array),
        entry.content,
        settings_of(entry.source, settings).voxel_size_nm,
        [(file.name, file.sha256) for file in raw.files],
        raw.digest,
        settings.ingest.output.model_dump_json(),
    )
    # `repr` gives floats in full, and the same text in each process.
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@contextmanager
def recorded(store: Store, source: str, key: str) -> Iterator[None]:
    """An error within the block is written to the item's record before it is raised."""
    try:
        yield
    except OutputBusy:  # the record is of the one who writes
        raise
    except Exception as error:
        _note_failure(store, source, key, error)
        raise
    except BaseException:  # Ctrl-C, or Dagster's own word for a run that is cancelled
        mark(store, source, key, Status.CANCELLED)
        raise


def _note_failure(store: Store, source: str, key: str, error: Exception) -> None:
    try:
        mark(store, source, key, Status.FAILED, error=error)
    except StorageError as second:
        # The disk that is full may be the one that holds the record.
        error.add_note(f"and its record could not be written: {second}")


def _preview(source: str, key: str, url: str, store: Store) -> str:
    """The path of the picture of the middle sections, once it is written."""
    picture = mid_sections(url, storage_options=store.options)
    store.write_document(layout.preview(source, key), picture)
    return store.url(layout.preview(source, key))


def _saved_if_written(entry: Entry, store: Store, settings: Settings) -> RawItem | None:
    """What was fetched, where its volume exists and the source is unchanged."""
    name = layout.ingested(entry.source, entry.key, "raw")
    saved = store.read(name, RawItem) if store.exists(name) else None
    if saved is None or not is_written(entry, saved, store, settings):
        return None
    return saved if _is_offered(entry, saved) else None


def _is_offered(entry: Entry, raw: RawItem) -> bool:
    """Whether the files are those that the entry names; two servers' ETags differ."""
    fetched = {file.name: file for file in raw.files}
    return fetched.keys() == {file.name for file in entry.files} and all(
        remote.size_bytes in (None, saved.size_bytes)
        and remote.sha256.lower() in ("", saved.sha256)
        and (
            remote.etag in ("", saved.etag) or not saved.etag or remote.url != saved.url
        )
        for remote in entry.files
        for saved in [fetched[remote.name]]
    )


def is_written(entry: Entry, raw: RawItem, store: Store, settings: Settings) -> bool:
    """Whether the store has the complete volume of just these voxels."""
    name = layout.ingested(entry.source, entry.key, "volume")
    if not store.exists(name):
        return False
    if store.read(name, VolumeItem).fingerprint != fingerprint(entry, raw, settings):
        return False
    image = store.url(layout.volume(entry.source, entry.key))
    return is_whole(image, volume_product(entry.source, entry.key), store.options)


def volume_product(source: str, key: str) -> Product:
    """For which purpose the volume of an item is made."""
    return Product(kind="volume", of=f"{source}/{key}")


def _same_voxels(
    source: str, key: str, item: VolumeItem, store: Store
) -> Iterator[str]:
    """Other ingested items with the same voxels."""
    wanted = item.written.statistics.content_sha256
    for other in SOURCES:
        for name in store.names(f"ingest/{other}"):
            path = layout.ingested(other, name, "volume")
            if (other, name) == (source, key) or not store.exists(path):
                continue
            saved = store.read(path, VolumeItem).written.statistics.content_sha256
            if saved == wanted:
                yield f"{other}/{name}"
