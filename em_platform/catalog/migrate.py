"""Older records brought to version 3: what they say moves, nothing is lost.

Version 1 is flat, version 2 nested; macroscope's records of version 2 also have keys at
places that its schema does not know. What has no place in version 3, or a value that
cannot be right, is kept as it was in `additional_metadata.undeclared`, under the path
where it stood, and named in a remark. Doing it again changes nothing.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from em_platform.catalog import repairs
from em_platform.catalog.identity import identity
from em_platform.catalog.record_files import at
from em_platform.catalog.rules import lengths_are_in_order
from em_platform.catalog.validate import schema_errors
from em_platform.errors import RecordError
from em_platform.model.dataset import NEEDED_WHEN_COMPLETE, SCHEMA_VERSION, Status

UNDECLARED = "undeclared"
"""Key of `additional_metadata` below which misfits are kept."""
Path = tuple[str, ...]
_CORE, _TECHNICAL = ("metadata", "core"), ("metadata", "technical")
_PROVENANCE = ("metadata", "provenance")
MOVES: tuple[tuple[Path, Path], ...] = (
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
"""Where version 1, and records beside the schema of version 2, have what; and where it
belongs. Done where the place is free."""
_NEVER_MOVED = {
    ("id",), ("source",), ("source_id",), ("status",), ("created_at",), ("metadata",),
    _CORE, (*_CORE, "description"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """A record of version 3, and what was done to it, a sentence each."""

    content: dict[str, Any]
    remarks: tuple[str, ...]


def migrate(
    content: Mapping[str, Any], *, recorded_at: datetime | None = None
) -> Migrated:
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
    draft = _Draft(content=copy.deepcopy(dict(content)))
    _make_room(draft)
    for source, target in MOVES:
        draft.move(source, target)
    _share_dtype(draft)
    draft.keep_undeclared_unknown_keys()
    for path, repair in repairs.REPAIRS.items():
        draft.repair(path, repair)
    _fill_in(draft, recorded_at)
    _order_lengths(draft)
    draft.keep_undeclared_wrong_values()
    _remark_on_missing(draft)
    if draft.content.get("schema_version") != SCHEMA_VERSION:
        before = draft.content.get("schema_version", "an older one")
        draft.remark(("schema_version",), f"{SCHEMA_VERSION}, was {before}")
        draft.content["schema_version"] = SCHEMA_VERSION
    return Migrated(content=draft.content, remarks=tuple(draft.remarks))


@dataclass(slots=True, kw_only=True)
class _Draft:
    content: dict[str, Any]
    remarks: list[str] = field(default_factory=list)

    def remark(self, path: Path, what: str) -> None:
        self.remarks.append(f"{'.'.join(path)}: {what}")

    def put(self, path: Path, value: Any) -> None:
        node = self.content
        for part in path[:-1]:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[path[-1]] = value

    def take(self, path: Path) -> Any:
        above, last = path[:-1], path[-1]
        node = _node(self.content, above)
        value = node.pop(int(last) if isinstance(node, list) else last)
        if above == ("local_paths",) and not node:
            del self.content["local_paths"]
        return value

    def move(self, source: Path, target: Path) -> None:
        above = _node(self.content, source[:-1])
        if not isinstance(above, dict) or source[-1] not in above:
            return
        parents = [at(self.content, *target[:n]) for n in range(1, len(target))]
        if not all(parent is None or isinstance(parent, dict) for parent in parents):
            return
        if at(self.content, *target) is None:
            self.put(target, self.take(source))
            self.remark(source, f"is {'.'.join(target)} now")

    def keep_undeclared(self, path: Path, why: str) -> None:
        room, name = ("additional_metadata", UNDECLARED), ".".join(path)
        while not isinstance(at(self.content, *room), dict | None):
            room = (room[0], f"{room[1]}_")
        while name in (at(self.content, *room) or {}):
            name += "_"
        self.put((*room, name), self.take(path))
        self.remark(path, f"{why}; kept in {'.'.join(room)}")

    def repair(self, path: Path, repair: repairs.Repair) -> None:
        value = at(self.content, *path)
        if value is None:
            return
        repaired, remark = repair(value)
        if repaired is None:
            self.keep_undeclared(path, remark)
        elif remark:
            self.put(path, repaired)
            self.remark(path, remark)

    def keep_undeclared_unknown_keys(self) -> None:
        found = {each.path for each in schema_errors(self.content) if each.is_unknown}
        # From the end of lists, so that the numbers of the others stay right.
        for path in sorted(found, reverse=True):
            self.keep_undeclared(path, "no version declares this key")

    def keep_undeclared_wrong_values(self) -> None:
        found: dict[Path, str] = {}
        for each in schema_errors(self.content):
            path = _field_of(each.path)
            if not each.is_unknown and path and path not in _NEVER_MOVED:
                found.setdefault(path, each.reason)
        for path, reason in sorted(found.items()):
            self.keep_undeclared(path, reason)


def _check_version(content: Any) -> None:
    if not isinstance(content, Mapping):
        raise RecordError(
            f"catalog: a {type(content).__name__} was found, a record was expected; "
            "leave it out"
        )
    version = str(content.get("schema_version", "2"))
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) > int(SCHEMA_VERSION.partition(".")[0]):
        raise RecordError(
            f"catalog: a record of version {version} was found, this platform knows "
            f"those up to {SCHEMA_VERSION}; use a newer platform"
        )


def _make_room(draft: _Draft) -> None:
    """Parts that should be objects but are not make way for those that are."""
    for path in (("additional_metadata",), ("metadata",), ("files",), _CORE):
        value = at(draft.content, *path)
        if value is not None and not isinstance(value, dict):
            draft.put(path, {})
            draft.put(("additional_metadata", UNDECLARED, ".".join(path)), value)
            draft.remark(
                path, f"was no object; kept in additional_metadata.{UNDECLARED}"
            )


def _share_dtype(draft: _Draft) -> None:
    """A flat record has one name for the type in the source and in the volume."""
    stated = at(draft.content, *_TECHNICAL, "dtype")
    if isinstance(stated, str) and at(draft.content, *_CORE, "data_type") is None:
        name, _ = repairs.data_type(stated)
        if name is not None and at(draft.content, *_CORE, "volume_shape") is not None:
            draft.put((*_CORE, "data_type"), name)
            draft.remark(
                (*_CORE, "data_type"), f"{name}, from metadata.technical.dtype"
            )


def _fill_in(draft: _Draft, recorded_at: datetime | None) -> None:
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


def _order_lengths(draft: _Draft) -> None:
    """Records of version 2 list `dimensions_nm` as x, y, z."""
    path = (*_TECHNICAL, "dimensions_nm")
    found = at(draft.content, *path)
    if not isinstance(found, list) or not any(lengths_are_in_order(draft.content)):
        return
    draft.put(path, found[::-1])
    if any(lengths_are_in_order(draft.content)):
        draft.put(path, found)
    else:
        draft.remark(path, "was in the order x, y, z, is z, y, x now")


def _remark_on_missing(draft: _Draft) -> None:
    for name in ("source", "source_id", "created_at"):
        if draft.content.get(name) is None:
            draft.remark((name,), "is missing, and nothing else states it")


def _field_of(path: Path) -> Path:
    """The path down to the field: a wrong number in a list makes the list wrong."""
    for number, part in enumerate(path):
        if part.isdigit():
            return path[:number]
    return path


def _node(content: Any, path: Path) -> Any:
    for part in path:
        if isinstance(content, list) and part.isdigit() and int(part) < len(content):
            content = content[int(part)]
        elif isinstance(content, dict):
            content = content.get(part)
        else:
            return None
    return content


def _is_uuid(value: Any) -> bool:
    try:
        return bool(str(UUID(value)) == value.lower())
    except (AttributeError, TypeError, ValueError):
        return False
