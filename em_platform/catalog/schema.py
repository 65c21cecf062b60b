"""The JSON Schema of a catalog record, made from the models.

Two forms. The published one leaves records room for keys of their own, as v2 does; the
strict one is what this platform writes, and names keys that are not declared.
"""

import copy
from functools import cache
from typing import Any

from em_platform.model.dataset import CiMetadata, DatasetRecord

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID = "urn:em-platform:schema:dataset-record:3.0"
_MAY_BE_NULL = CiMetadata.__name__
"""The source projects write null for a CI variable that is not set."""


@cache
def strict_schema() -> dict[str, Any]:
    """The schema of our own records: what is not declared is refused."""
    made = DatasetRecord.model_json_schema()
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **_plain(made, null=False)}


@cache
def published_schema() -> dict[str, Any]:
    """The schema that every record of version 2 or 3 keeps, with keys of its own."""
    opened: dict[str, Any] = _open(copy.deepcopy(strict_schema()))
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
    plain: dict[str, Any] = {}
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


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
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
