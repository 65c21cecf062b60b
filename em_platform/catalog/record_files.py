"""Records as files: sorted keys, nothing that is not known, whole or absent."""

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from em_platform.errors import RecordError
from em_platform.model.dataset import DatasetRecord, Status
from em_platform.storage import layout
from em_platform.storage.store import Store

_LINE = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False)

log = logging.getLogger(__name__)

_REMOVABLE = {Status.FAILED, Status.CANCELLED, Status.PENDING}


def utc_now() -> datetime:
    """The time of this computer."""
    return datetime.now(UTC)


def json_bytes(content: Any) -> bytes:
    """Indented JSON with sorted keys: equal content gives equal bytes."""
    text = json.dumps(
        content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def listed_bytes(content: Mapping[str, Any]) -> bytes:
    """An object whose lists have one line an item, for thousands of records.

    Equal content gives equal bytes. Python writes indented JSON ten times as slowly.
    """
    parts = []
    for name, value in sorted(content.items()):
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(map(_LINE.encode, value)) + "\n]"
        else:
            text = json_bytes(value).decode().rstrip()
        parts.append(f"{json.dumps(name)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def content_of(record: DatasetRecord) -> dict[str, Any]:
    """The record as JSON values; what is not known is left out."""
    return record.model_dump(mode="json")


def write_record(store: Store, name: str, record: DatasetRecord) -> None:
    """Put the record at `name`, whole or not at all."""
    store.write_bytes(name, json_bytes(content_of(record)))


def read_record(store: Store, name: str) -> DatasetRecord | None:
    """The record at `name`, None where there is none.

    Raises
    ------
    RecordError
        What lies there is no record; it says why.
    """
    if not store.exists(name):
        return None
    return store.read(name, DatasetRecord)


def earlier_record(store: Store, name: str) -> DatasetRecord | None:
    """The record at `name`; a damaged one is told in the log and counts as none."""
    try:
        return read_record(store, name)
    except RecordError as error:
        log.warning("%s", error)
        return None


def remove_record(
    store: Store, source: str, key: str, *, of_any_status: bool = False
) -> None:
    """Take the record of a dataset that came to nothing out of the store.

    Voxels and fetched files stay.

    Raises
    ------
    RecordError
        It is of a dataset that stands or is being made, and not `of_any_status`.
    """
    name = layout.record(source, key)
    found = earlier_record(store, name)
    if found is not None and found.status not in _REMOVABLE and not of_any_status:
        raise RecordError(
            f"catalog remove: {source}/{key} is {found.status}, only failed, cancelled "
            "and pending records are removed; add --force to remove it all the same"
        )
    store.remove(name)


def first_recorded(
    store: Store, name: str, *, now: Callable[[], datetime] = utc_now
) -> datetime:
    """When the dataset was recorded first: by the record at `name`, else now."""
    earlier = earlier_record(store, name)
    return now() if earlier is None else earlier.created_at


def at(content: Mapping[str, Any], *path: str) -> Any:
    """The value at a path of keys, None where a part of it is missing."""
    value: Any = content
    for part in path:
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
