"""The base of all that crosses a wire or a file, and numbers with a unit."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


def first_problem(error: ValidationError | RecursionError) -> str:
    """The first field that is wrong, and why, on one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    why = first["msg"].removeprefix("Value error, ")
    # A rule over several fields names them itself.
    return (f"{where}: {why}" if where else why).replace("\n", " ")[:300]


class Size(Model):
    """How large an image is, in pixels."""

    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)


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
