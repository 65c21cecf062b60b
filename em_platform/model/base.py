"""The base of all that crosses a wire or a file, and numbers with a unit."""

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """A frozen value: unknown fields, NaN and infinities are refused."""

    # NaN is no JSON; a misspelt field would be lost without a word.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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


class VoxelSize(Model):
    """The edges of one voxel, in nanometres."""

    z_nm: float = Field(gt=0)
    y_nm: float = Field(gt=0)
    x_nm: float = Field(gt=0)
