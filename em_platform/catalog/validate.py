"""All that is wrong with a record, each with its path."""

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from em_platform.catalog.record_files import Parts, Record, at, content_of
from em_platform.catalog.rules import ADVICE, RULES
from em_platform.model.dataset import WITH_VOLUME, CiMetadata, DatasetRecord, is_uri

# Loaded where a record needs the schema; ours, which most are, do not.
if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import ValidationError

# Whether the file of a URL is there; None where nobody can say.
Exists = Callable[[str], bool | None]
# What is wrong with the image at a URL; empty where nothing is, or nobody can say.
Damage = Callable[[str], str]
# Of a wrong value that is shown in a sentence.
_MOST_CHARACTERS = 160
# JSON Schema means RFC 3339, which asks for a zone; fromisoformat takes more.
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found of one record; `warnings` leave it valid."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaError:
    """One thing that the strict schema refuses.

    `place` is `path` as one reads it. `is_unknown`: a key that no version declares.
    """

    path: tuple[str, ...]
    place: str
    reason: str
    is_unknown: bool


def check_record(content: Any) -> tuple[str, ...]:
    """Every error of a record, `path: sentence` each; nothing where it is valid."""
    return judge_record(content).errors


def judge_record(
    content: Any, *, exists: Exists | None = None, damage: Damage | None = None
) -> Findings:
    """Every error and warning of a record of any version.

    Form and values are checked by the schema, with its formats; then, by rules, whether
    the parts fit each other. `exists` is asked for the volume of a record that has one,
    and `damage` for what is wrong with it.
    A key that no version declares is a warning.
    """
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        return Findings(errors=(f"the whole: {kind}, an object expected",))
    found = () if _is_as_we_write(content) else tuple(schema_errors(content))
    errors = [f"{e.place}: {e.reason}" for e in found if not e.is_unknown]
    warnings = [f"{e.place}: {e.reason}" for e in found if e.is_unknown]
    errors += [sentence for rule in RULES for sentence in rule(content)]
    errors += _bad_volume(content, exists, damage)
    warnings += [sentence for rule in ADVICE for sentence in rule(content)]
    # Rules and schema may say the same; each sentence once, in the order of the paths.
    return Findings(
        errors=tuple(dict.fromkeys(sorted(errors))),
        warnings=tuple(dict.fromkeys(sorted(warnings))),
    )


def _is_as_we_write(content: Record) -> bool:
    """Whether a record is just what its model would write, and so keeps the schema.

    Twenty times as fast as the schema; most records of a catalog are our own.
    """
    try:
        # Strict, as `"5"` would pass for the number 5, which the schema refuses; as
        # JSON, where strict mode takes texts for ids and times.
        record = DatasetRecord.model_validate_json(json.dumps(content), strict=True)
    except ValueError:
        return False
    return content_of(record) == content


def schema_errors(content: Record) -> Iterator[SchemaError]:
    """What the schema says of a record: every wrong value, every unknown key."""
    for found in _validator().iter_errors(content):
        for cause in _causes(found):
            path = tuple(str(part) for part in cause.absolute_path)
            if cause.validator == "additionalProperties":
                declared = cause.schema.get("properties", {})
                for key in cause.instance:
                    if key not in declared:
                        yield SchemaError(
                            path=(*path, key),
                            place=_place(*cause.absolute_path, key),
                            reason="no version declares this key",
                            is_unknown=True,
                        )
            else:
                yield SchemaError(
                    path=path,
                    place=_place(*cause.absolute_path),
                    reason=_reason(cause),
                    is_unknown=False,
                )


def is_date_time(value: object) -> bool:
    """Whether a text is a time of RFC 3339, which has a zone; others are not judged."""
    if not isinstance(value, str):
        return True
    if _RFC_3339.fullmatch(value) is None:
        return False
    try:
        # RFC 3339 allows small t and z, which Python does not read.
        datetime.fromisoformat(value.upper())
    except ValueError:
        return False
    return True


@cache
def format_checker() -> "FormatChecker":
    """Checks uuid, date, date-time and uri; the library alone lets the last two pass.

    It needs packages for them which are not always there.
    """
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=("uuid", "date"))
    checker.checkers = {
        **{name: FormatChecker.checkers[name] for name in ("uuid", "date")},
        "date-time": (is_date_time, ()),
        "uri": (lambda value: not isinstance(value, str) or is_uri(value), ()),
    }
    return checker


@cache
def _validator() -> "Draft202012Validator":
    from jsonschema import Draft202012Validator

    # With all references put in place, which halves the time of a check.
    schema = strict_schema()
    whole = _without_references(schema, schema["$defs"])
    return Draft202012Validator(whole, format_checker=format_checker())


def _without_references(node: Any, definitions: Record) -> Any:
    if isinstance(node, list):
        return [_without_references(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        meant = definitions[node["$ref"].rpartition("/")[2]]
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {**_without_references(meant, definitions), **rest}
    return {
        key: value if key == "default" else _without_references(value, definitions)
        for key, value in node.items()
        if key != "$defs"
    }


def _causes(error: "ValidationError") -> Iterator["ValidationError"]:
    """The error, or of several allowed forms the errors of the one that was meant."""
    if error.validator != "anyOf" or not error.context:
        yield error
        return
    forms: dict[Any, list[ValidationError]] = {}
    for below in error.context:
        forms.setdefault(below.relative_schema_path[0], []).append(below)
    meant = [
        causes
        for causes in forms.values()
        # A form that wants another type altogether was not meant.
        if not any(c.validator == "type" and not c.relative_path for c in causes)
    ]
    if len(meant) == 1:
        yield from meant[0]
    else:
        yield error


def _place(*path: str | int) -> str:
    """`metadata.technical.levels[0].shape`."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return text.removeprefix(".") or "the whole"


def _reason(error: "ValidationError") -> str:
    """The library's words, with a long value cut."""
    shown = repr(error.instance)
    if error.validator == "anyOf":
        return f"{_cut(shown)} has none of the allowed forms"
    if error.validator == "format":
        return f"{_cut(shown)} is not a {error.validator_value}"
    message: str = error.message
    return message.replace(shown, _cut(shown))


def _cut(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]} ..."


def _bad_volume(
    content: Record, exists: Exists | None, damage: Damage | None
) -> Iterator[str]:
    volume = at(content, "files", "volume")
    status = content.get("status")
    if exists is None or status not in WITH_VOLUME:
        return
    if not isinstance(volume, str) or not volume:
        return
    if exists(volume) is False:
        yield f"files.volume: {volume} is not there, a {status} record has its volume"
    elif damage is not None and (wrong := damage(volume)):
        yield f"files.volume: {volume}: {wrong}"


# Written into the schema, so that other validators judge as ours does.
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID = "urn:em-platform:schema:dataset-record:3.0"
# The source projects write null for a CI variable that is not set.
_MAY_BE_NULL = CiMetadata.__name__


@cache
def strict_schema() -> Parts:
    """The schema of our own records: what is not declared is refused."""
    made = DatasetRecord.model_json_schema()
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **_plain(made, null=False)}


@cache
def published_schema() -> Parts:
    """The schema that every record of version 2 or 3 keeps, with keys of its own."""
    # The strict one is cached, and stays as it is.
    opened: Parts = _open(copy.deepcopy(strict_schema()))
    return opened


def _plain(node: Any, *, null: bool) -> Any:
    """Without pydantic's titles; without null, which a record never says."""
    if isinstance(node, list):
        return [_plain(each, null=null) for each in node]
    if not isinstance(node, dict):
        return node
    if not null and node.get("default", ...) is None:
        node = {key: value for key, value in node.items() if key != "default"}
    if not null and "anyOf" in node:
        node = _without_null(node)
    plain: Parts = {}
    for key, value in node.items():
        if key == "title" and isinstance(value, str):
            continue
        if key in ("properties", "$defs"):
            plain[key] = {
                name: _plain(each, null=null or name == _MAY_BE_NULL)
                for name, each in value.items()
            }
        else:
            plain[key] = value if key == "default" else _plain(value, null=null)
    return plain


def _without_null(node: Parts) -> Parts:
    kinds = [each for each in node["anyOf"] if each != {"type": "null"}]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds}


def _open(node: Any) -> Any:
    if isinstance(node, list):
        return [_open(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _open(value)
        for key, value in node.items()
        if not (key == "additionalProperties" and value is False)
    }
