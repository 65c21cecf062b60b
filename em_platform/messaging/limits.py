"""What a field of any message may hold, beyond what the model of its topic asks.

Models take any integer, any text and infinities; tables, arrays and files do not.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

M = TypeVar("M", bound=BaseModel)
_Fault = tuple[tuple[str | int, ...], str]  # where, and why

_INTEGER = 2**63  # what SQLite, PostgreSQL and NumPy hold
_INTEGERS = -_INTEGER, _INTEGER - 1
_LONGEST_ID = 200  # a column of the recorder's table, and a file's name with a suffix
_SIZE_PX = 1, 1_000_000
_RASTER = -10_000, 10_000  # a map of the tiles has a cell for each row and column
_STAGE_NM = -(10**12), 10**12  # a kilometre: differences in px stay within 64 bits
_COUNT = 0, 100_000_000

_RANGES: Mapping[str, tuple[float, float]] = {
    "width": _SIZE_PX,
    "height": _SIZE_PX,
    "overlap": (0, _SIZE_PX[1]),
    "row": _RASTER,
    "column": _RASTER,
    "raster_position": _RASTER,
    "tiles_x": (1, _RASTER[1]),
    "tiles_y": (1, _RASTER[1]),
    "raster_index": _COUNT,
    "current_tile": _COUNT,
    "total_tiles": _COUNT,
    "tilt_index": _COUNT,
    "tilt_total": _COUNT,
    "stage_position": _STAGE_NM,
    "current_position": _STAGE_NM,
    "aperture_centroid": _STAGE_NM,
    "pixel_size": (1e-6, 1e9),  # nm: far below an atom, and a metre
    "mag": (1, 100_000_000),
    "exposure": (0, 1e12),  # µs: eleven days
}
"""Lowest and highest by a field's name, which means the same in all topics."""

# Whoever adds metadata names its parts.
_FREE = "metadata"
# 14 digits reach the year 5138: `datetime` has no year of more than four digits.
_MILLISECONDS = re.compile(r"[0-9]{1,14}")


def within_limits(message: M) -> M:
    """The message, where all of its fields are within the limits.

    Raises
    ------
    pydantic.ValidationError
        As for a field that does not fit the model.
    """
    found = _beyond(message, "")
    if found is None:
        return message
    place, why = found
    error = PydanticCustomError("beyond_limits", "{why}", {"why": why})
    details = InitErrorDetails(type=error, loc=place, input=None)
    raise ValidationError.from_exception_data(type(message).__name__, [details])


def sent_ms(headers: Mapping[str, str]) -> int | None:
    """When a message was sent, in ms since 1970; None where it does not name it."""
    text = headers.get("sent_at", "")
    # Not `isdecimal`: that takes digits of any script, and any number of them.
    return int(text) if _MILLISECONDS.fullmatch(text) else None


def _beyond(value: Any, name: str) -> _Fault | None:
    """The first place within a field of this name that is beyond a limit, and why."""
    if isinstance(value, (list, tuple)):
        return None if _are_within(value, name) else _first(enumerate(value), name)
    own = name if name == _FREE else None
    if isinstance(value, BaseModel):
        return _first(iter(value), own)
    if isinstance(value, Mapping):
        for key in value:
            if isinstance(key, str) and (why := _fault_of_text(key, "_id")):
                return (), f"one of its names: {why}"
        return _first(value.items(), own)
    if isinstance(value, str):
        why = _fault_of_text(value, name)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        why = _fault_of_number(value, name)
    else:
        return None
    return ((), why) if why else None


def _first(items: Iterable[tuple[str | int, Any]], name: str | None) -> _Fault | None:
    """As `_beyond`, of parts that go by `name`, or each by its own."""
    for key, inner in items:
        field = name or str(key)
        # Most are plain; to look at them here takes half the time.
        if (check := _PLAIN.get(type(inner))) is None:
            if found := _beyond(inner, field):
                return (key, *found[0]), found[1]
        elif why := check(inner, field):
            return (key,), why
    return None


def _are_within(values: Sequence[Any], name: str) -> bool:
    """Whether these many are numbers within the limits, as most are."""
    if len(values) < _MANY or not set(map(type, values)) <= {int, float}:
        return False
    low, high = _RANGES.get(name, _INTEGERS)
    # NaN hides from the lowest and the highest, not from the sum.
    is_finite = math.isfinite(sum(values))
    return is_finite and low <= min(values) and max(values) <= high


def _fault_of_text(text: str, name: str) -> str:
    if "\0" in text:
        return "found a NUL character, expected none"
    if name.endswith("_id") and len(text) > _LONGEST_ID:
        return f"found {len(text)} characters, expected at most {_LONGEST_ID}"
    return ""


def _fault_of_number(number: float, name: str) -> str:
    low, high = _RANGES.get(name, _INTEGERS)
    if low <= number <= high:
        return ""
    # Not shown: thousands of digits make no sentence, and Python refuses to write them.
    if isinstance(number, int) and not -_INTEGER <= number < _INTEGER:
        return "found an integer beyond 64 bits, expected one within"
    if not math.isfinite(number):
        return f"found {number}, expected a finite number"
    if name in _RANGES:
        return f"found {number}, expected {low:,} to {high:,}"
    return ""


_PLAIN: Mapping[type, Callable[[Any, str], str]] = {
    int: _fault_of_number,
    float: _fault_of_number,
    str: _fault_of_text,
    bool: lambda *_: "",
    type(None): lambda *_: "",
}
_MANY = 8  # fewer are looked at as quickly one by one
