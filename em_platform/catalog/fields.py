"""The fields of a record that a query may name, and what can stand in each."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from em_platform.model.dataset import DatasetRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordField:
    """What can stand in a field; `choices` are all of its words, where they are few."""

    is_number: bool
    is_text: bool
    choices: tuple[str, ...]


@cache
def declared_fields() -> dict[str, RecordField]:
    """Dotted path in lower case -> the field, of all that the schema declares."""
    return dict(_walk(DatasetRecord, ""))


def _walk(model: type[BaseModel], above: str) -> Iterator[tuple[str, RecordField]]:
    for name, field in model.model_fields.items():
        path = f"{above}{name.lower()}"
        parts = tuple(_parts(field.annotation))
        choices = tuple(part for part in parts if isinstance(part, str))
        yield (
            path,
            RecordField(
                is_number=all(part in (int, float) for part in parts),
                is_text=all(part is str or part in choices for part in parts),
                choices=choices,
            ),
        )
        for part in parts:
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _walk(part, f"{path}.")


def _parts(annotation: Any) -> Iterator[Any]:
    """The plain types, models and words that an annotation is made of."""
    origin = get_origin(annotation)
    if origin is Literal:
        yield from get_args(annotation)
    elif origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin in (Union, UnionType, tuple):
        for each in get_args(annotation):
            yield from _parts(each)
    elif isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield from (each.value for each in annotation)
    elif annotation not in (type(None), Ellipsis):
        yield annotation
