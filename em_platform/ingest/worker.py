"""All wanted items of one source, one after the other, in a process of its own.

The process writes what happens as lines of JSON, so that a library that crashes or
takes too much memory ends this source and no other.
"""

import logging
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from em_platform.config import Settings
from em_platform.errors import PlatformError
from em_platform.ingest.modes import ItemOutcome, Report, SourceEvent
from em_platform.ingest.source import Source
from em_platform.ingest.sources import open_source, settings_of
from em_platform.ingest.steps import (
    is_written,
    take_entry,
    take_raw,
    take_record,
    take_volume,
)
from em_platform.model import Severity
from em_platform.model.ingest import RawItem
from em_platform.ome_zarr import Run
from em_platform.stitching.compute import (
    dask_map,
    keep_freed_memory,
    local_cluster,
    serial,
)
from em_platform.storage import Store, layout, store_of

log = logging.getLogger(__name__)

_LARGE_BYTES = 2**30
"""A smaller volume is written before a Dask worker has started."""
# Each report is a line over a pipe to the parent process.
_REPORT_EVERY_S = 0.2


class _Bytes:
    """Adds up what came, and reports it five times a second."""

    def __init__(self, event: SourceEvent, report: Report) -> None:
        self._event, self._report = event, report
        self._total = self._came = 0
        self._last = 0.0

    def total(self, size_bytes: int) -> None:
        self._total = size_bytes
        self._send()

    def came(self, size_bytes: int) -> None:
        self._came += size_bytes
        if time.monotonic() - self._last > _REPORT_EVERY_S:
            self._send()

    def _send(self) -> None:
        self._last = time.monotonic()
        update = {"total_bytes": self._total, "came_bytes": self._came, "step": "raw"}
        self._report(self._event.model_copy(update=update))


def ingest_source(
    name: str, keys: Sequence[str], *, settings: Settings, report: Report
) -> list[ItemOutcome]:
    """Ingest `keys` of one source, or all that it lists; each has its outcome."""
    try:
        source = open_source(name, settings)
        wanted = tuple(keys) or source.list()
    # The source itself has failed: there is no item to name.
    except PlatformError as error:
        outcome = ItemOutcome(source=name, key="", status="failed", sentence=str(error))
        report(SourceEvent(source=name, outcome=outcome))
        return [outcome]
    outcomes = []
    for key in wanted:
        started = time.monotonic()
        outcome = _ingest_item(source, key, settings=settings, report=report)
        seconds = round(time.monotonic() - started, 3)
        outcome = outcome.model_copy(update={"seconds": seconds})
        report(SourceEvent(source=name, key=key, outcome=outcome))
        outcomes.append(outcome)
    return outcomes


def _ingest_item(
    source: Source, key: str, *, settings: Settings, report: Report
) -> ItemOutcome:
    store = store_of(settings)
    place = layout.item_folder(source.name, key)
    try:
        with store.one_writer(place, work=f"an ingest of {source.name}/{key}"):
            return _take_item(source, key, store, settings=settings, report=report)
    # The next items may be good; `steps.recorded` marks those that fail.
    except Exception as error:
        return _failed(source.name, key, error)


def _take_item(
    source: Source, key: str, store: Store, *, settings: Settings, report: Report
) -> ItemOutcome:
    event = SourceEvent(source=source.name, key=key)
    report(event.model_copy(update={"step": "entry"}))
    entry = take_entry(source, key, store)
    counted = _Bytes(event, report)
    raw = take_raw(source, entry, store, settings=settings, progress=counted)
    was_there = is_written(entry, raw, store, settings)
    report(event.model_copy(update={"step": "volume"}))
    with _writers(source.name, raw, settings) as run:
        written = take_volume(source, entry, store, settings=settings, run=run)
    report(event.model_copy(update={"step": "record"}))
    _, checks = take_record(source.name, key, store, settings=settings)
    failed = [check for check in checks if not check.passed]
    return ItemOutcome(
        source=source.name,
        key=key,
        status="complete",
        title=entry.title,
        shape=written.shape,
        dtype=written.dtype,
        voxel_size_nm=written.voxel_size_nm,
        fetched_bytes=raw.fetched_bytes,
        was_there=was_there,
        volume_bytes=written.size_bytes,
        failed_checks=tuple(c.sentence for c in failed if c.severity is Severity.ERROR),
        warnings=tuple(c.sentence for c in failed if c.severity is Severity.WARN),
    )


def _failed(source: str, key: str, error: Exception) -> ItemOutcome:
    if not isinstance(error, PlatformError):
        # A fault of ours: its sentence alone does not lead to it.
        log.error("%s/%s: %s", source, key, traceback.format_exc())
    sentence = str(error) or type(error).__name__
    return ItemOutcome(source=source, key=key, status="failed", sentence=sentence)


@contextmanager
def _writers(name: str, raw: RawItem, settings: Settings) -> Iterator[Run]:
    """Who writes the volume: Dask workers where it is large, else this process."""
    workers = settings.ingest.workers
    with ExitStack() as stack:
        if workers < 2 or raw.size_bytes < _LARGE_BYTES:
            keep_freed_memory()
            yield serial
            return
        # The source's limit is for all of its workers together.
        limit = settings_of(name, settings).memory_limit_mb // workers
        client = stack.enter_context(
            local_cluster(
                workers,
                memory_limit_mb=limit,
                setting=f"ingest.{name}.memory_limit_mb, shared by {workers} workers,",
            )
        )
        yield dask_map(client)
