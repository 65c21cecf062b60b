"""Older records brought to version 3: what they say moves, nothing is lost.

Version 1 is flat, version 2 nested; macroscope's records of version 2 also have keys at
places that its schema does not know. What has no place in version 3, or a value that
cannot be right, is kept as it was in `additional_metadata.undeclared`, under the path
where it stood, and named in a remark. Doing it again changes nothing.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from em_platform.catalog.record_files import Parts, Record, at, json_bytes
from em_platform.catalog.repairs import REPAIRS, UNDECLARED, Draft, data_type
from em_platform.catalog.repairs import Path as KeyPath
from em_platform.catalog.repository import identity, json_files, parsed
from em_platform.catalog.rules import lengths_are_in_order
from em_platform.errors import RecordError
from em_platform.model.dataset import NEEDED_WHEN_COMPLETE, SCHEMA_VERSION, Status
from em_platform.storage import atomic

_CORE, _TECHNICAL = ("metadata", "core"), ("metadata", "technical")
_PROVENANCE = ("metadata", "provenance")
# Where version 1, and records beside the schema of version 2, have what; and where it
# belongs. Done where the place is free.
MOVES: tuple[tuple[KeyPath, KeyPath], ...] = (
    *(
        ((name,), (*_CORE, name))
        for name in (
            "description", "volume_shape", "voxel_size_nm", "data_type", "modality",
            "imaging_start_date",
        )
    ),
    *(
        ((name,), (*_TECHNICAL, name))
        for name in (
            "file_size_bytes", "sha256", "compression", "chunk_size", "global_mean",
            "dimensions_nm", "file_format", "dtype",
        )
    ),
    *(
        ((name,), (*_PROVENANCE, name))
        for name in (
            "download_url", "internal_zarr_path", "processing_pipeline", "uuid",
        )
    ),
    (("timestamp",), ("created_at",)),
    (("local_paths", "volume"), ("files", "volume")),
    (("local_paths", "raw"), ("files", "raw")),
    (("local_paths", "metadata"), ("files", "metadata")),
    ((*_TECHNICAL, "volume_shape"), (*_CORE, "volume_shape")),
    (("processing_time_seconds",), (*_TECHNICAL, "duration_s")),
    ((*_TECHNICAL, "processing_time_seconds"), (*_TECHNICAL, "duration_s")),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """A record of version 3, and what was done to it, a sentence each."""

    content: Parts
    remarks: tuple[str, ...]


def migrate(content: Record, *, recorded_at: datetime | None = None) -> Migrated:
    """The record of version 3 that says all that `content` says.

    `recorded_at` is the time of creation of a record that names none, such as that of
    its file. What is unknown stays missing: the result may be invalid, see
    `validate.judge_record`.

    Raises
    ------
    RecordError
        It is no object, or of a version that this platform does not know.
    """
    _check_version(content)
    # Moved and repaired in place; the caller's record stays as it was.
    draft = Draft(content=copy.deepcopy(dict(content)))
    _make_room(draft)
    for source, target in MOVES:
        draft.move(source, target)
    _share_dtype(draft)
    # After the moves: a key that was only misplaced is known by now.
    draft.keep_undeclared_unknown_keys()
    for path, repair in REPAIRS.items():
        draft.repair(path, repair)
    _fill_in(draft, recorded_at)
    # After the repairs, since it computes with shape and voxel size.
    _order_lengths(draft)
    # Last: what no repair has made right.
    draft.keep_undeclared_wrong_values()
    _remark_on_missing(draft)
    if draft.content.get("schema_version") != SCHEMA_VERSION:
        before = draft.content.get("schema_version", "an older one")
        draft.remark(("schema_version",), f"{SCHEMA_VERSION}, was {before}")
        draft.content["schema_version"] = SCHEMA_VERSION
    return Migrated(content=draft.content, remarks=tuple(draft.remarks))


def _check_version(content: Any) -> None:
    if not isinstance(content, Mapping):
        raise RecordError(
            f"catalog: a {type(content).__name__} was found, a record was expected; "
            "leave it out"
        )
    # Versions 1 and 2 do not name themselves.
    version = str(content.get("schema_version", "2"))
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) > int(SCHEMA_VERSION.partition(".")[0]):
        raise RecordError(
            f"catalog: a record of version {version} was found, this platform knows "
            f"those up to {SCHEMA_VERSION}; use a newer platform"
        )


def _make_room(draft: Draft) -> None:
    """Parts that should be objects but are not make way for those that are."""
    for path in (("additional_metadata",), ("metadata",), ("files",), _CORE):
        value = at(draft.content, *path)
        if value is not None and not isinstance(value, dict):
            draft.put(path, {})
            draft.put(("additional_metadata", UNDECLARED, ".".join(path)), value)
            draft.remark(
                path, f"was no object; kept in additional_metadata.{UNDECLARED}"
            )


def _share_dtype(draft: Draft) -> None:
    """A flat record has one name for the type in the source and in the volume."""
    stated = at(draft.content, *_TECHNICAL, "dtype")
    if isinstance(stated, str) and at(draft.content, *_CORE, "data_type") is None:
        name, _ = data_type(stated)
        if name is not None and at(draft.content, *_CORE, "volume_shape") is not None:
            draft.put((*_CORE, "data_type"), name)
            draft.remark(
                (*_CORE, "data_type"), f"{name}, from metadata.technical.dtype"
            )


def _fill_in(draft: Draft, recorded_at: datetime | None) -> None:
    """What version 3 must have and older records may lack, from what they say."""
    content = draft.content
    source, name = content.get("source"), content.get("source_id")
    if at(content, *_CORE, "description") in (None, ""):
        draft.put(
            (*_CORE, "description"), f"{source or 'unknown'} {name or ''}".strip()
        )
        draft.remark((*_CORE, "description"), "was missing, says source and name now")
    if not _is_uuid(content.get("id")):
        if "id" in content:
            draft.keep_undeclared(("id",), "is no UUID")
        # From what it says, so that migrating again gives the same id.
        made = uuid5(NAMESPACE_URL, "em-platform:" + ":".join(identity(content)))
        content["id"] = str(made)
        draft.remark(("id",), "made from source, name, URL and path")
    if content.get("status") is None:
        known = all(at(content, *_CORE, n) is not None for n in NEEDED_WHEN_COMPLETE)
        content["status"] = str(Status.COMPLETE if known else Status.PENDING)
        draft.remark(("status",), f"was missing, {content['status']} by what is known")
    if content.get("created_at") is None:
        found = content.get("updated_at")
        if found is None and recorded_at is not None:
            found = recorded_at.isoformat()
        if found is not None:
            content["created_at"] = found
            draft.remark(("created_at",), f"was missing, {found} is the best known")


def _order_lengths(draft: Draft) -> None:
    """Records of version 2 list `dimensions_nm` as x, y, z."""
    path = (*_TECHNICAL, "dimensions_nm")
    found = at(draft.content, *path)
    if not isinstance(found, list) or not any(lengths_are_in_order(draft.content)):
        return
    draft.put(path, found[::-1])
    if any(lengths_are_in_order(draft.content)):
        # Turning it did not help: wrong in another way, and kept as it was.
        draft.put(path, found)
    else:
        draft.remark(path, "was in the order x, y, z, is z, y, x now")


def _remark_on_missing(draft: Draft) -> None:
    for name in ("source", "source_id", "created_at"):
        if draft.content.get(name) is None:
            draft.remark((name,), "is missing, and nothing else states it")


def _is_uuid(value: Any) -> bool:
    try:
        # `UUID()` also takes braces and `urn:`, which the schema's format refuses.
        return bool(str(UUID(value)) == value.lower())
    except (AttributeError, TypeError, ValueError):
        return False


# The end of the name of a record as it was before.
KEPT = ".before-v3"


@dataclass(frozen=True, slots=True, kw_only=True)
class MigratedFile:
    """One file's record as version 3 and what changed; or why there is none."""

    path: Path
    content: Parts | None = None
    remarks: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def is_changed(self) -> bool:
        """Whether the record is another one than before."""
        return bool(self.remarks)


def migrated_files(paths: Iterable[Path]) -> Iterator[MigratedFile]:
    """Every record of files and folders as version 3; nothing is written."""
    for path in paths:
        for file in json_files(path) if path.is_dir() else [path]:
            yield _migrated(file)


def write_migrated(done: MigratedFile) -> None:
    """Put the new record in place of the old one, where it is another one.

    The old one, which we did not make, is kept as `<name>.before-v3`.
    """
    if not done.is_changed:
        return
    kept = done.path.with_name(f"{done.path.name}{KEPT}")
    # The first copy is the original; a second migration keeps it.
    if not kept.exists():
        atomic.write_bytes(kept, done.path.read_bytes())
    atomic.write_bytes(done.path, json_bytes(done.content))


def _migrated(path: Path) -> MigratedFile:
    found = parsed(path.read_bytes(), str(path))
    if found.trouble:
        return MigratedFile(path=path, trouble=found.trouble)
    written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    try:
        done = migrate(found.content, recorded_at=written_at)
    except RecordError as error:
        return MigratedFile(path=path, trouble=str(error))
    return MigratedFile(path=path, content=done.content, remarks=done.remarks)
