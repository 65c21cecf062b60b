"""What a simulated microscope knows of a montage: where each tile truly lies, and why.

A file `<acquisition_id>.truth.json` beside the frames holds it (`MontageTruth`).
"""

from typing import Literal

from pydantic import Field

from em_platform.model.base import Model, Size
from em_platform.model.montage import LensModel, TilePlacement

Fault = Literal["missing", "blurred", "blank", "jumped"]


class GainTruth(Model):
    """Arguments of imaging.exposure.camera_gain that give the camera's gain."""

    seed: int
    vignette: float
    pattern: float
    dust: int


class TileTruth(Model):
    """Where one tile truly lies, and what is wrong with it.

    `placement` is in world pixels: world = placement(p + field(p)) for the camera's
    pixel p and the displacement field of the lens. `nominal_*` is the corner where the
    stage reported to be.
    """

    tile_id: str
    row: int
    column: int
    placement: TilePlacement
    nominal_y_px: float
    nominal_x_px: float
    beam: float
    faults: tuple[Fault, ...] = ()


class MontageTruth(Model):
    """All that decides the pixels of one acquisition."""

    acquisition_id: str
    montage_id: str
    seed: int
    section: int
    pixel_nm: float
    size: Size
    lens: LensModel | None = None
    gain: GainTruth
    tiles: dict[str, TileTruth] = Field(default_factory=dict)
