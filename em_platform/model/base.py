"""The base of all that crosses a wire or a file, and numbers with a unit."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from em_platform.model.sentences import nearest, size_of

Json: TypeAlias = (
    bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
)
"""What is written as JSON; of what is read, pydantic's `JsonValue` is checked."""
JsonObject: TypeAlias = Mapping[str, Json]


class Model(BaseModel):
    """A frozen value: unknown fields, NaN and infinities are refused."""

    # NaN is no JSON; a misspelt field would be lost without a word.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Foreign(BaseModel):
    """A value of another program: fields that we do not need are passed over."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        populate_by_name=True,
    )


_WORDS = {
    "Input should be greater than or equal to": "expected at least",
    "Input should be less than or equal to": "expected at most",
    "Input should be greater than": "expected more than",
    "Input should be less than": "expected less than",
    "Input should be": "expected",
}


def first_problem(
    error: ValidationError | RecursionError, model: type[BaseModel] | None = None
) -> str:
    """The first field that is wrong, and why, on one line.

    A name that `model` has not is compared with those that it has.
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    why = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        *above, name = first["loc"]
        known = nearest(str(name), [] if model is None else _names(model, above))
        why = f"is no known name{known}"
    why = _in_words(why, first["input"])
    # A rule over several fields names them itself.
    return (f"{where}: {why}" if where else why).replace("\n", " ")[:300]


def _in_words(why: str, value: object) -> str:
    """Pydantic's own clause as ours; of values only numbers, texts may be secret."""
    for theirs, ours in _WORDS.items():
        why = why.replace(theirs, ours)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return why
    # One of more digits than a float can have is not printed.
    is_short = isinstance(value, float) or abs(value) <= sys.float_info.max
    return f"found {value:g}, {why}" if is_short and "expected " in why else why


def _names(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Of the fields of the model that stands at `place` within another."""
    for name in place:
        if isinstance(name, str) and name in model.model_fields:
            inner = list(_models(model.model_fields[name].annotation))
            model = inner[0] if inner else model
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models(each)


class Size(Model):
    """How large an image is, in pixels."""

    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)

    def __str__(self) -> str:
        return size_of((self.height_px, self.width_px))


class Shift(Model):
    """How far one image lies from another, in pixels: down and to the right."""

    dy_px: float
    dx_px: float


class Box(Model):
    """A half-open rectangle in pixels: `y0 <= y < y1`, `x0 <= x < x1`."""

    y0: int
    x0: int
    y1: int
    x1: int
