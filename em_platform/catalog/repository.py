"""Records of a store, of folders, files or catalogs, and which are of one dataset.

A damaged file is one `Found` with its trouble; it never hides the others.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from em_platform.catalog.record_files import Record, at
from em_platform.errors import StorageError
from em_platform.storage import layout
from em_platform.storage.store import Store

# Records are JSON; the rest of a folder is none of ours.
INCLUDED = ("*.json",)
# What in a folder holds no record: images, half-written files, what we make of all.
EXCLUDED = ("*.zarr", ".*", "metadata_catalog*.json", "validation_report*.json")
# Under which name a catalog, ours or macroscope's, holds whole records.
_LISTS = ("records", "valid_records_sample")
# Objects of a bucket are waited for, not computed.
_AT_ONCE = 16

One = TypeVar("One")
Other = TypeVar("Other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One record as found at `place`, or why it could not be read.

    `content` is any JSON value, perhaps no record at all.
    """

    place: str
    content: Any = None
    trouble: str = ""


def found_in(store: Store) -> list[Found]:
    """Every record of a store, ordered by its name."""
    names = [
        f"{layout.RECORDS}/{source}/{name}"
        for source in store.names(layout.RECORDS)
        for name in store.names(f"{layout.RECORDS}/{source}")
        if name.endswith(".json")
    ]
    return each_of(store, lambda name: _found(store, name), names)


def each_of(
    store: Store, work: Callable[[One], Other], items: Sequence[One]
) -> list[Other]:
    """The work done on each item; on a bucket, which answers slowly, many at once."""
    if store.local_path("") is not None:
        return [work(item) for item in items]
    with ThreadPoolExecutor(_AT_ONCE) as workers:
        return list(workers.map(work, items))


def found_at(paths: Iterable[Path]) -> list[Found]:
    """Every record of files and folders; a catalog gives the records it holds.

    Raises
    ------
    StorageError
        A path is not there.
    """
    return [found for path in paths for found in _at_path(path)]


def parsed(content: bytes, place: str) -> Found:
    """The JSON value of some bytes, or what is wrong with them."""
    try:
        # Python would take NaN and Infinity, which JSON has not.
        value = json.loads(content, parse_constant=_no_number)
    # Brackets nested by the thousand end Python's stack.
    except (ValueError, RecursionError) as error:
        reason = "no text was found" if not content.strip() else str(error)
        return Found(place=place, trouble=f"is not JSON: {reason}")
    return Found(place=place, content=value)


def _found(store: Store, name: str) -> Found:
    try:
        return parsed(store.read_bytes(name), name)
    except StorageError as error:
        return Found(place=name, trouble=str(error))


def _at_path(path: Path) -> Iterator[Found]:
    if path.is_dir():
        for each in json_files(path):
            yield from _in_file(each)
    elif path.is_file():
        yield from _in_file(path)
    else:
        raise StorageError(
            f"catalog: {path} is not there, a folder or file of records was expected; "
            "correct the path"
        )


def json_files(folder: Path) -> list[Path]:
    """Files below a folder that may hold a record, ordered by name."""
    found = []
    for parent, folders, files in os.walk(folder):
        # In place, so that os.walk stays out of images and their many files.
        folders[:] = sorted(n for n in folders if not _is_excluded(n))
        found += [
            Path(parent) / n
            for n in sorted(files)
            if n.endswith(".json") and not _is_excluded(n)
        ]
    return found


def _is_excluded(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in EXCLUDED)


def _in_file(path: Path) -> Iterator[Found]:
    try:
        found = parsed(path.read_bytes(), str(path))
    except OSError as error:
        yield Found(place=str(path), trouble=f"cannot be read: {error.strerror}")
        return
    records = _records_in(found.content)
    if records is None:
        yield found
        return
    for number, content in enumerate(records):
        yield Found(place=f"{path}#{number}", content=content)


def _records_in(content: Any) -> list[Any] | None:
    if isinstance(content, list):
        return content
    if isinstance(content, dict) and "metadata" in content and "summary" in content:
        for name in _LISTS:
            if isinstance(content.get(name), list):
                return list(content[name])
    return None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


Identity = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Datasets that share what only one should have."""

    by: str
    """`content_sha256`, `sha256` or `source_id`."""
    value: str
    places: tuple[str, ...]


def identity(record: Record) -> Identity:
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
    # Of equal times the place decides: each run keeps the same one.
    for each in sorted(found, key=lambda f: (changed_at(f.content), f.place)):
        name = identity(each.content)
        if name in newest:
            older.append((newest[name], each))
        newest[name] = each
    kept = sorted(newest.values(), key=lambda f: (identity(f.content), f.place))
    return kept, sorted(older, key=lambda pair: pair[0].place)


def changed_at(record: Record) -> str:
    """The time of the last change as a text that sorts, empty where none is stated."""
    # The last one is version 1's.
    for name in ("updated_at", "created_at", "timestamp"):
        if record.get(name):
            # Both mean UTC, but as texts they sort apart.
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
    found: Iterable[Found], value_of: Callable[[Record], Any]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    groups: dict[str, list[str]] = {}
    for each in found:
        value = value_of(each.content)
        if isinstance(value, str) and value:
            groups.setdefault(value, []).append(each.place)
    for value, places in sorted(groups.items()):
        if len(places) > 1:
            yield value, tuple(sorted(places))


def _name_without_key(record: Record) -> str:
    if record.get("key") or not record.get("source_id"):
        return ""
    return f"{_text(record.get('source'))} {_text(record['source_id'])}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
