"""Records that fit a question: any field, compared with a word or a number.

The grammar, with blanks between terms, all of which must hold::

    term   = ["-"] ( field operator value | word )
    field  = a dotted path, or its last parts: metadata.core.modality, modality
    operator = "=" | "!=" | "~" | "!~" | "<" | "<=" | ">" | ">="
    value  = text, a number with or without a unit, "text with blanks", a|b, *

`=` is equality without regard to case, `~` means contains, `*` any value at all. A list
is smaller than a number when all of its numbers are; `voxel.z` names one axis.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from em_platform.catalog.fields import RecordField, declared_fields
from em_platform.catalog.migrate import migrate
from em_platform.catalog.record_files import Record
from em_platform.catalog.repository import Found, latest
from em_platform.errors import ConfigError, RecordError
from em_platform.model.dataset import SCHEMA_VERSION
from em_platform.model.sentences import nearest

# Short names of fields.
SHORT = {
    "voxel": "metadata.core.voxel_size_nm",
    "shape": "metadata.core.volume_shape",
    "type": "metadata.core.data_type",
    "title": "metadata.core.dataset_title",
    "size": "metadata.technical.file_size_bytes",
    "url": "metadata.provenance.download_url",
    "volume": "files.volume",
}
# One term of a query: `field<5nm`, `-field=word`, a word, each perhaps quoted.
_TERM = re.compile(
    r"""(?P<minus>-?)
    (?:(?P<field>[A-Za-z_][\w.-]*)(?P<operator>!=|!~|<=|>=|=|~|<|>)
       (?P<value>"[^"]*"|[^\s"]*)
      |(?P<word>"[^"]*"|[^\s"]+))
    (?=\s|$)""",
    re.VERBOSE,
)
# What looks like an operator where the grammar has none: `voxel < 10`, `voxel:10`.
_NO_WORD = re.compile(r"[=!~<>]+[^=!~<>]*|(?P<field>[A-Za-z_][\w.]*):(?!//).*")
# To bytes and to nm, the units of the fields.
_UNITS = {
    "": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
    "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40,
    "nm": 1.0, "um": 1e3, "µm": 1e3, "mm": 1e6, "pm": 1e-3, "a": 0.1, "å": 0.1,
}  # fmt: skip
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-zµå]*)", re.I)
# From the end, since images of one section have no z.
_AXES = {"z": -3, "y": -2, "x": -1}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One condition; a bare word has no field and is looked for everywhere."""

    field: str
    operator: str
    values: tuple[str, ...]
    negated: bool


def select(found: Iterable[Found], query: str) -> list[Found]:
    """Of some records those that fit, the latest of each dataset, as version 3."""
    terms = parse(query)
    parsed = [each for each in found if isinstance(each.content, dict)]
    kept, _ = latest(parsed)
    records = list(map(_as_v3, kept))
    _check(terms, [each.content for each in records])
    return [each for each in records if fits(each.content, terms)]


def unmet(records: Iterable[Found], query: str) -> list[str]:
    """Each `field=value` of a query that no record has, also one of `a|b`."""
    contents = [each.content for each in records]
    singles = (
        Term(field=term.field, operator="=", values=(value,), negated=False)
        for term in parse(query)
        if term.operator == "="
        for value in term.values
    )
    return [
        f"{term.field}={term.values[0]}"
        for term in singles
        if not any(fits(content, [term]) for content in contents)
    ]


def parse(query: str) -> tuple[Term, ...]:
    """The terms of a query; ConfigError where one is not understood."""
    terms, position = [], 0
    text = query.strip()
    while position < len(text):
        found = _TERM.match(text, position)
        if found is None:
            raise ConfigError(
                f"catalog search: {text[position:]!r} is no term, expected "
                "field=value, field<number, field~text or a word; quote blanks"
            )
        terms.append(_term(found))
        position = found.end()
        while position < len(text) and text[position].isspace():
            position += 1
    return tuple(terms)


def fits(record: Record, terms: Iterable[Term]) -> bool:
    """Whether all terms hold for a record of version 3."""
    return all(_holds(record, term) != term.negated for term in terms)


def _term(found: re.Match[str]) -> Term:
    negated = bool(found["minus"])
    if found["word"] is not None:
        if _is_like_a_term(found["word"]):
            raise ConfigError(
                f"catalog search: {found[0]!r} is no term, expected FIELD OPERATOR "
                "VALUE without blanks, such as voxel<10; quote a word that has "
                "these characters"
            )
        words = (found["word"].strip('"'),)
        return Term(field="", operator="~", values=words, negated=negated)
    operator, value = found["operator"], found["value"]
    if not value:
        raise ConfigError(
            f"catalog search: {found[0]!r} has no value, expected one after "
            f"{operator}; write * for any"
        )
    if value[0] in "=<>~!":
        raise ConfigError(
            f"catalog search: {found[0]!r} has the operator {operator + value[0]!r}, "
            "one of = != ~ !~ < <= > >= was expected; quote a value that begins so"
        )
    if operator in ("!=", "!~"):
        # `!=` means that no value is equal, not that one is another.
        operator, negated = operator[1:], not negated
    if operator in _COMPARE and _number(value.strip('"')) is None:
        # Times compare as texts, since they are written from the year on.
        if not value.strip('"')[:4].isdigit():
            raise ConfigError(
                f"catalog search: {found[0]!r} compares with {value!r}, a number or "
                "date was expected; use = or ~ for text"
            )
    quoted = value.startswith('"')
    values = (value.strip('"'),) if quoted else tuple(value.split("|"))
    return Term(field=found["field"], operator=operator, values=values, negated=negated)


def _is_like_a_term(word: str) -> bool:
    found = _NO_WORD.fullmatch(word)
    if found is None or found["field"] is None:
        return found is not None
    return any(_named(p, found["field"]) is not None for p in declared_fields())


def _check(terms: Iterable[Term], records: list[Record]) -> None:
    """ConfigError where no record can have a term's field, or its value."""
    fields = declared_fields()
    in_records = {path for record in records for path, _ in _paths(record, "")}
    for term in terms:
        if not term.field:
            continue
        paths = [p for p in (*fields, *in_records) if _named(p, term.field) is not None]
        if not paths:
            ends = {path.rpartition(".")[2] for path in (*fields, *in_records)}
            raise ConfigError(
                f"catalog search: no record has a field {term.field}"
                f"{nearest(term.field.lower(), [*SHORT, *sorted(ends), *fields])}; "
                "`em-platform catalog show NAME` prints one with all of its fields"
            )
        # What a record has is right, whatever the schema says of it.
        if all(path in fields for path in paths):
            for value in term.values:
                _check_value(term, value, [fields[path] for path in paths], records)


def _check_value(
    term: Term, value: str, fields: list[RecordField], records: list[Record]
) -> None:
    who = f"catalog search: {term.field}{term.operator}{value}"
    if term.operator in _COMPARE and all(field.is_text for field in fields):
        raise ConfigError(
            f"{who}: {term.field} is a text, {term.operator} compares numbers and "
            "dates; use = or ~"
        )
    if term.operator != "=" or value == "*":
        return
    if all(field.is_number for field in fields):
        if any(_number(part) is None for part in value.split(",")):
            raise ConfigError(f"{who}: {value!r} is no number, {term.field} is one")
    words = {word.lower() for field in fields for word in field.choices}
    if words and all(field.choices for field in fields) and value.lower() not in words:
        raise ConfigError(
            f"{who}: {value!r} is none of {', '.join(sorted(words))}"
            f"{nearest(value.lower(), sorted(words))}"
        )


def _holds(record: Record, term: Term) -> bool:
    if not term.field:
        text = json.dumps(record, ensure_ascii=False).lower()
        return any(value.lower() in text for value in term.values)
    return any(
        _compares(value, term.operator, wanted)
        for value in _values(record, term.field)
        for wanted in term.values
    )


def _compares(value: Any, operator: str, wanted: str) -> bool:
    if wanted == "*" and operator in ("=", "~"):
        return value not in (None, "", [], {})
    if operator == "~":
        text = value if isinstance(value, str) else json.dumps(value)
        return wanted.lower() in text.lower()
    if operator == "=":
        return _equals(value, wanted)
    if isinstance(value, list):
        return bool(value) and all(_compares(v, operator, wanted) for v in value)
    if isinstance(value, str):
        # As far as the question goes: `created_at<=2025-06` takes all of June.
        return _COMPARE[operator](value[: len(wanted)], wanted)
    number = _number(wanted)
    if number is None or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return _COMPARE[operator](value, number)


def _equals(value: Any, wanted: str) -> bool:
    if isinstance(value, list):
        whole = ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
        # `shape=10,20,30` asks for all of a list, `shape=10` for one of it.
        return whole == wanted or any(_equals(each, wanted) for each in value)
    if isinstance(value, bool):
        return wanted.lower() in (str(value).lower(), "yes" if value else "no")
    if isinstance(value, int | float):
        return value == _number(wanted)
    return isinstance(value, str) and value.lower() == wanted.lower()


def _number(text: str) -> float | None:
    found = _NUMBER.fullmatch(text)
    if found is None or found[2].lower() not in _UNITS:
        return None
    return float(found[1]) * _UNITS[found[2].lower()]


def _values(record: Record, name: str) -> Iterator[Any]:
    """All values whose path ends with `name`; of a list also one axis."""
    for path, value in _paths(record, ""):
        if (axis := _named(path, name)) == "":
            yield value
        elif axis is not None and isinstance(value, list):
            if len(value) >= -_AXES[axis]:
                yield value[_AXES[axis]]


def _named(path: str, name: str) -> str | None:
    """Which axis of the value at `path` is named; "" for all of it, None for none."""
    wanted = SHORT.get(name.lower(), name).lower()
    if path == wanted or path.endswith(f".{wanted}"):
        return ""
    above, _, axis = wanted.rpartition(".")
    above = SHORT.get(above, above)
    is_above = path == above or path.endswith(f".{above}")
    return axis if axis in _AXES and is_above else None


def _paths(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if path:
        yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _paths(value, f"{path}.{key.lower()}" if path else key.lower())
    elif isinstance(node, list):
        for each in node:
            if isinstance(each, Mapping):
                for key, value in each.items():
                    yield from _paths(value, f"{path}.{key.lower()}")


def _as_v3(found: Found) -> Found:
    if found.content.get("schema_version") == SCHEMA_VERSION:
        return found
    try:
        return Found(place=found.place, content=migrate(found.content).content)
    # Of a newer version: searched as it is.
    except RecordError:
        return found
