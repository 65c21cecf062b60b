"""All steps of an ingest in the test's own process."""

from em_platform.config import Settings
from em_platform.ingest.source import Source
from em_platform.ingest.steps import take_entry, take_raw, take_record, take_volume
from em_platform.model import Check
from em_platform.model.dataset import DatasetRecord
from em_platform.storage import Store


def take_all(
    source: Source,
    key: str,
    store: Store,
    *,
    settings: Settings,
) -> tuple[DatasetRecord, tuple[Check, ...]]:
    """All steps of one item, one after the other."""
    entry = take_entry(source, key, store)
    take_raw(source, entry, store, settings=settings)
    take_volume(source, entry, store, settings=settings)
    return take_record(source.name, key, store, settings=settings)
