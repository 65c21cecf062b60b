"""Values as older records write them, and as version 3 wants them; a record in work.

Each function gives the value and a remark. An empty remark: it was right. None: it
cannot be made right, the remark says why.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from em_platform.catalog.record_files import Parts, at
from em_platform.catalog.validate import is_date_time, schema_errors
from em_platform.model.dataset import Status, voxel_size_zyx
from em_platform.model.modality import modality_of

Path = tuple[str, ...]
Repair = Callable[[Any], tuple[Any, str]]
# Key of `additional_metadata` below which misfits are kept.
UNDECLARED = "undeclared"

# Names of archives in older records -> ours, one for each source.
_SOURCES = {"empiar": "ebi", "embl-ebi": "ebi", "hemibrain": "flyem"}
# As older records and archives write it -> the word of the schema.
_TYPES = re.compile(r"(u?int(8|16|32|64)|float(32|64))")
# numpy writes `<u2`: kind and bytes, where the schema has kind and bits.
_SHORT_TYPES = {"u": "uint", "i": "int", "f": "float"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMPRESSIONS = {"none", "gzip", "lz4", "blosc", "zarr", "zstd"}
# The first is what JavaScript writes; OpenOrganelle's records have it.
_DAYS = ("%a %b %d %Y", "%Y/%m/%d", "%d.%m.%Y", "%b %d %Y", "%d %b %Y")


def source(value: Any) -> tuple[Any, str]:
    """A lower-case name; the archive's own name becomes that of its institute."""
    if not isinstance(value, str):
        return value, ""
    name = value.strip().lower().replace(" ", "-")
    name = _SOURCES.get(name, name)
    return name, "" if name == value else f"{name}, was {value!r}"


def status(value: Any) -> tuple[Any, str]:
    """One of the six words."""
    words = {str(each) for each in Status}
    word = str(value).strip().lower().replace("_", "-")
    word = {"completed": "complete", "canceled": "cancelled", "error": "failed"}.get(
        word, word
    )
    if word not in words:
        # The one status that claims nothing.
        return "pending", f"pending, was {value!r}, which is no status"
    return word, "" if word == value else f"{word}, was {value!r}"


def moment(value: Any) -> tuple[Any, str]:
    """A time with its zone; one without is taken as UTC."""
    if isinstance(value, str) and is_date_time(value):
        return value, ""
    try:
        found = datetime.fromisoformat(value.strip())
    except (AttributeError, ValueError):
        return None, f"{value!r} is no time"
    if found.tzinfo is None:
        text = found.replace(tzinfo=UTC).isoformat()
        return text, f"{value!r} has no time zone, taken as UTC"
    text = found.isoformat()
    return text, f"{text}, was {value!r}"


def day(value: Any) -> tuple[Any, str]:
    """A date as `2015-03-09`."""
    if not isinstance(value, str):
        return None, f"{value!r} is no date"
    try:
        return str(date.fromisoformat(value)), ""
    except ValueError:
        pass
    try:
        found = str(datetime.fromisoformat(value).date())
        return found, f"{found}, was {value!r}"
    except ValueError:
        pass
    for form in _DAYS:
        try:
            found = str(datetime.strptime(value, form).date())
        except ValueError:
            continue
        return found, f"{found}, was {value!r}"
    return None, f"{value!r} is no date"


def lengths(value: Any) -> tuple[Any, str]:
    """Lengths in the order z, y, x, also from an object `{x, y, z}`."""
    if not isinstance(value, dict):
        return value, ""
    found = voxel_size_zyx(value)
    if isinstance(found, tuple) and len(found) > 1:
        return list(found), f"{list(found)} in the order z, y, x, was {value}"
    return None, f"{value} names no lengths of z, y and x"


def modality(value: Any) -> tuple[Any, str]:
    """One of the schema's words."""
    word = modality_of(value)
    if word is None:
        return None, f"{value!r} is no modality of the schema"
    return word, "" if word == value else f"{word}, was {value!r}"


def data_type(value: Any) -> tuple[Any, str]:
    """The whole name of a type, also from numpy's `<u2` and `|u1`."""
    # The schema names types without their byte order.
    text = str(value).strip().lower().lstrip("<>|=")
    if text[:1] in _SHORT_TYPES and text[1:].isdigit():
        text = f"{_SHORT_TYPES[text[0]]}{8 * int(text[1:])}"
    if _TYPES.fullmatch(text) is None:
        return None, f"{value!r} is no type of the schema"
    return text, "" if text == value else f"{text}, was {value!r}"


def sha256(value: Any) -> tuple[Any, str]:
    """64 hexadecimal digits in lower case."""
    text = str(value).strip().lower().removeprefix("sha256:")
    if _SHA256.fullmatch(text) is None:
        return None, f"{value!r} is no SHA-256, dropped from here"
    return text, "" if text == value else f"{text}, was {value!r}"


def compression(value: Any) -> tuple[Any, str]:
    """One of the schema's words."""
    word = str(value).strip().lower()
    if word not in _COMPRESSIONS:
        return None, f"{value!r} is no compression of the schema"
    return word, "" if word == value else f"{word}, was {value!r}"


_CORE, _TECHNICAL = ("metadata", "core"), ("metadata", "technical")
# Field -> how it is made right.
REPAIRS: dict[tuple[str, ...], Repair] = {
    ("source",): source,
    ("status",): status,
    ("created_at",): moment,
    ("updated_at",): moment,
    ("progress", "estimated_completion"): moment,
    (*_CORE, "voxel_size_nm"): lengths,
    (*_CORE, "modality"): modality,
    (*_CORE, "data_type"): data_type,
    (*_CORE, "imaging_start_date"): day,
    (*_TECHNICAL, "dimensions_nm"): lengths,
    (*_TECHNICAL, "sha256"): sha256,
    (*_TECHNICAL, "compression"): compression,
}
# A record without one of these would not be a record: a wrong value stays.
_NEVER_MOVED = {
    ("id",), ("source",), ("source_id",), ("status",), ("created_at",), ("metadata",),
    _CORE, (*_CORE, "description"),
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Draft:
    """A record on its way to version 3; each change leaves a remark."""

    content: Parts
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
        # Left empty, it would be a key that no version declares.
        if above == ("local_paths",) and not node:
            del self.content["local_paths"]
        return value

    def move(self, source: Path, target: Path) -> None:
        above = _node(self.content, source[:-1])
        if not isinstance(above, dict) or source[-1] not in above:
            return
        parents = [at(self.content, *target[:n]) for n in range(1, len(target))]
        # A parent that is no object would be lost under the new one.
        if not all(parent is None or isinstance(parent, dict) for parent in parents):
            return
        if at(self.content, *target) is None:
            self.put(target, self.take(source))
            self.remark(source, f"is {'.'.join(target)} now")

    def keep_undeclared(self, path: Path, why: str) -> None:
        room, name = ("additional_metadata", UNDECLARED), ".".join(path)
        while not isinstance(at(self.content, *room), dict | None):
            room = (room[0], f"{room[1]}_")
        # What is kept already is not written over.
        while name in (at(self.content, *room) or {}):
            name += "_"
        self.put((*room, name), self.take(path))
        self.remark(path, f"{why}; kept in {'.'.join(room)}")

    def repair(self, path: Path, repair: Repair) -> None:
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
        # All first: each one kept changes what the schema says of the rest.
        found: dict[Path, str] = {}
        for each in schema_errors(self.content):
            path = _field_of(each.path)
            if not each.is_unknown and path and path not in _NEVER_MOVED:
                found.setdefault(path, each.reason)
        for path, reason in sorted(found.items()):
            self.keep_undeclared(path, reason)


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
