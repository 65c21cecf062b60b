"""The record of an item of a public source."""

from collections.abc import Iterable
from datetime import datetime

from em_platform.model import Check
from em_platform.model.dataset import DatasetRecord
from em_platform.model.ingest import Entry, RawItem
from em_platform.model.volume import WrittenVolume


def record_of_item(
    entry: Entry,
    raw: RawItem,
    written: WrittenVolume,
    *,
    created_at: datetime,
    updated_at: datetime | None = None,
    checks: Iterable[Check] = (),
    raw_folder: str = "",
    snapshot_url: str = "",
    volume_file: str = "",
    preview: str = "",
) -> DatasetRecord:
    """The complete record of one item; the same arguments give the same record."""
    raise NotImplementedError
