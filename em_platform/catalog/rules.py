"""What a schema cannot say of a record: that its parts fit each other.

Each rule takes a record as JSON values, of any version and perhaps wrong in form, and
gives a sentence for each thing that does not fit. What has the wrong form is left to
the schema.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from em_platform.catalog.record_files import Record, at
from em_platform.model.dataset import (
    NEEDED_WHEN_COMPLETE,
    SCHEMA_VERSION,
    WITH_VOLUME,
    Status,
    voxel_size_zyx,
)

Rule = Callable[[Record], Iterator[str]]

_CORE = "metadata.core"
# Relative; `dimensions_nm` of others are rounded.
_TOLERANCE = 1e-3


def complete_says_what_it_is(record: Record) -> Iterator[str]:
    """A record whose volume stands has shape, type and a volume."""
    status = record.get("status")
    if status not in WITH_VOLUME:
        return
    for name in NEEDED_WHEN_COMPLETE:
        if at(record, "metadata", "core", name) is None:
            yield f"{_CORE}.{name}: is missing, a {status} record says it"
    if not at(record, "files", "volume"):
        yield f"files.volume: is missing, a {status} record says where the volume lies"


def review_says_why(record: Record) -> Iterator[str]:
    """A record that needs review says for which failed checks; no other does."""
    reasons = at(record, "metadata", "quality", "review_reasons")
    name, status = "metadata.quality.review_reasons", record.get("status")
    if status == Status.NEEDS_REVIEW and not reasons:
        yield f"{name}: is missing, a {status} record says which checks failed"
    if status == Status.COMPLETE and reasons:
        yield f"{name}: a complete record has none; its status is needs_review"


def lengths_are_above_zero(record: Record) -> Iterator[str]:
    """No voxel edge is 0, but for the thickness of an image of one section."""
    voxel, shape = _voxel(record), _shape(record)
    for axis, edge in enumerate(voxel or ()):
        one_section = shape and len(shape) == len(voxel or ()) and shape[axis] == 1
        if edge <= 0 and not one_section:
            yield (
                f"{_CORE}.voxel_size_nm[{axis}]: {edge:g} nm, a length above 0 was "
                "expected"
            )


def axes_are_as_many(record: Record) -> Iterator[str]:
    """Shape, voxel size, axes, origin, lengths, chunks and levels agree in number."""
    shape = _shape(record)
    if shape is None:
        return
    named = {
        f"{_CORE}.voxel_size_nm": _voxel(record),
        f"{_CORE}.axes": at(record, "metadata", "core", "axes"),
        f"{_CORE}.origin_nm": _numbers(at(record, "metadata", "core", "origin_nm")),
    }
    for name in ("dimensions_nm", "chunk_size", "shards"):
        value = at(record, "metadata", "technical", name)
        named[f"metadata.technical.{name}"] = _numbers(value)
    for name, value in named.items():
        if isinstance(value, list) and value and len(value) != len(shape):
            yield f"{name}: has {len(value)} axes, the shape has {len(shape)}"


def levels_grow_smaller(record: Record) -> Iterator[str]:
    """Level 0 has the shape of the volume; no level is larger than the one before."""
    levels = at(record, "metadata", "technical", "levels")
    found = [_numbers(at(level, "shape")) for level in levels or () if level]
    shapes = [shape for shape in found if shape]
    if not shapes or len(shapes) != len(found):
        return
    shape, place = _shape(record), "metadata.technical.levels"
    if shape is not None and shapes[0] != shape:
        yield f"{place}[0].shape: {shapes[0]}, the volume is {shape}"
    for number, (fine, coarse) in enumerate(pairwise(shapes), start=1):
        # Equal is right: a thin axis is not halved.
        if len(fine) != len(coarse) or any(
            c > f for f, c in zip(fine, coarse, strict=True)
        ):
            yield f"{place}[{number}].shape: {coarse} is larger than {fine} before it"


def lengths_are_in_order(record: Record) -> Iterator[str]:
    """`dimensions_nm` is shape times voxel size, axis by axis."""
    found = _numbers(at(record, "metadata", "technical", "dimensions_nm"))
    expected = lengths_of(record)
    if found is None or expected is None or len(found) != len(expected):
        return
    if _close(found, expected):
        return
    name = "metadata.technical.dimensions_nm"
    if _close(found, expected[::-1]):
        yield f"{name}: {found} is in the order x, y, z; z, y, x was expected"
    else:
        yield f"{name}: {found}, shape times voxel size is {expected}"


def times_are_in_order(record: Record) -> Iterator[str]:
    """Nothing was changed before it was created."""
    created, updated = (_time(record.get(n)) for n in ("created_at", "updated_at"))
    if created is None or updated is None:
        return
    # Python does not compare a time that has a zone with one that has none.
    if (created.tzinfo is None) == (updated.tzinfo is None) and updated < created:
        yield f"updated_at: {updated} is before created_at, {created}"


# A record that breaks one of these is wrong.
RULES: tuple[Rule, ...] = (
    complete_says_what_it_is,
    review_says_why,
    lengths_are_above_zero,
    axes_are_as_many,
    levels_grow_smaller,
    lengths_are_in_order,
    times_are_in_order,
)


def version_is_ours(record: Record) -> Iterator[str]:
    """Records of older versions can be brought to this one."""
    version = record.get("schema_version")
    if version is None:
        yield "schema_version: is missing, so this is an older record; migrate it"
    elif version != SCHEMA_VERSION:
        yield f"schema_version: {version}, this platform writes {SCHEMA_VERSION}"


def stopped_says_why(record: Record) -> Iterator[str]:
    """A failed record has its error; one whose volume stands has none."""
    message = at(record, "error", "message")
    if record.get("status") == Status.FAILED and not message:
        yield "error.message: is missing, a failed record says what happened"
    if record.get("status") in WITH_VOLUME and message:
        yield f"error.message: a {record['status']} record has none"


def image_is_described(record: Record) -> Iterator[str]:
    """A record with a volume says how it was imaged, and at which size of voxel."""
    if record.get("status") in WITH_VOLUME:
        for name in ("modality", "voxel_size_nm"):
            if at(record, "metadata", "core", name) is None:
                yield f"{_CORE}.{name}: is missing"


# A record that does not follow these is valid all the same.
ADVICE: tuple[Rule, ...] = (version_is_ours, stopped_says_why, image_is_described)


def lengths_of(record: Record) -> list[float] | None:
    """Shape times voxel size, None where one of them is not known or wrong."""
    shape, voxel = _shape(record), _voxel(record)
    if shape is None or voxel is None or len(shape) != len(voxel):
        return None
    pairs = list(zip(shape, voxel, strict=True))
    # One section may have no thickness, a stack must have one.
    if any(edge < 0 or (edge == 0 and n > 1) for n, edge in pairs):
        return None
    return [n * edge for n, edge in pairs]


def _shape(record: Record) -> list[float] | None:
    shape = _numbers(at(record, "metadata", "core", "volume_shape"))
    return shape if shape and min(shape) >= 1 else None


def _voxel(record: Record) -> list[float] | None:
    return _numbers(voxel_size_zyx(at(record, "metadata", "core", "voxel_size_nm")))


def _numbers(value: Any) -> list[float] | None:
    if not isinstance(value, list | tuple) or not value:
        return None
    # For Python true is the integer 1.
    wanted = all(isinstance(n, int | float) and not isinstance(n, bool) for n in value)
    return list(value) if wanted else None


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=_TOLERANCE) for a, b in zip(one, other, strict=True)
    )


def _time(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
