"""Which records describe the same dataset, and which datasets are the same."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from em_platform.catalog.record_files import at
from em_platform.catalog.repository import Found

Identity = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Datasets that share what only one should have."""

    by: str
    """`content_sha256`, `sha256` or `source_id`."""
    value: str
    places: tuple[str, ...]


def identity(record: Mapping[str, Any]) -> Identity:
    """What two records of one dataset share.

    Source and key where there is a key. Older records have none, and one `source_id`
    for many files (the slices of an EMPIAR entry, the levels of a pyramid): for them
    also URL and path within a container.
    """
    source, key = _text(record.get("source")), _text(record.get("key"))
    if key:
        return source, key
    provenance = ("metadata", "provenance")
    return (
        source,
        _text(record.get("source_id")),
        _text(at(record, *provenance, "download_url") or record.get("download_url")),
        _text(
            at(record, *provenance, "internal_zarr_path")
            or record.get("internal_zarr_path")
        ),
    )


def latest(found: Iterable[Found]) -> tuple[list[Found], list[tuple[Found, Found]]]:
    """The newest record of each dataset, and each older one with the one after it."""
    newest: dict[Identity, Found] = {}
    older: list[tuple[Found, Found]] = []
    for each in sorted(found, key=lambda f: (changed_at(f.content), f.place)):
        name = identity(each.content)
        if name in newest:
            older.append((newest[name], each))
        newest[name] = each
    kept = sorted(newest.values(), key=lambda f: (identity(f.content), f.place))
    return kept, sorted(older, key=lambda pair: pair[0].place)


def changed_at(record: Mapping[str, Any]) -> str:
    """The time of the last change as a text that sorts, empty where none is stated."""
    for name in ("updated_at", "created_at", "timestamp"):
        if record.get(name):
            return _text(record[name]).replace("+00:00", "Z")
    return ""


def find_duplicates(found: Iterable[Found]) -> tuple[Duplicate, ...]:
    """Datasets with the same voxels, the same file, or the same name at their source.

    Crops of one volume share its `source_id` by right: a record with a key of its own
    is no duplicate by name.
    """
    found = tuple(found)
    keys = (
        ("content_sha256", lambda r: at(r, "metadata", "technical", "content_sha256")),
        ("sha256", lambda r: at(r, "metadata", "technical", "sha256")),
        ("source_id", _name_without_key),
    )
    return tuple(
        Duplicate(by=by, value=value, places=places)
        for by, value_of in keys
        for value, places in _shared(found, value_of)
    )


def _shared(
    found: Iterable[Found], value_of: Callable[[Mapping[str, Any]], Any]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    groups: dict[str, list[str]] = {}
    for each in found:
        value = value_of(each.content)
        if isinstance(value, str) and value:
            groups.setdefault(value, []).append(each.place)
    for value, places in sorted(groups.items()):
        if len(places) > 1:
            yield value, tuple(sorted(places))


def _name_without_key(record: Mapping[str, Any]) -> str:
    if record.get("key") or not record.get("source_id"):
        return ""
    return f"{_text(record.get('source'))} {_text(record['source_id'])}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
