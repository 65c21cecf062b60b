"""Settings of the simulated microscope: what it sees, and what is wrong with it."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from em_platform.model import Model

_PLACES = r"^(\d+|\d+:\d+([ ,]+\d+:\d+)*)?$"
Tiles = Annotated[str, BeforeValidator(str), Field(pattern=_PLACES)]
"""Nothing, a number of tiles that the seed chooses, or `row:column row:column ...`."""

Fraction = Annotated[float, Field(ge=0, le=1)]


class SimulationSettings(Model):
    """The simulated scope, stage and camera.

    `specimen` is the path of an image, a folder of images (one a section) or an
    OME-Zarr; empty means procedural tissue. The stage misses its target by up to
    `jitter_px` along both axes. `lens_px` is the lens's displacement at the middle of
    an edge. `missing`, `blurred`, `blank` and `jumped` tiles: how many of a montage, or
    which (`1:2 3:0`, row:column). With one `seed` all frames are the same again.
    """

    seed: int = Field(default=1, ge=0)
    specimen: str = ""
    tile_px: int = Field(default=1024, ge=64, le=16384)
    bit_depth: Annotated[Literal[8, 16], BeforeValidator(int)] = 8
    exposure_ms: float = Field(default=20.0, gt=0)
    jitter_px: float = Field(default=10.0, ge=0)
    rotation_deg: float = 0.0
    turn_sd_deg: float = Field(default=0.0, ge=0)
    lens_px: float = 0.0
    vignette: Fraction = 0.15
    pattern: Fraction = 0.02
    dust: int = Field(default=6, ge=0)
    drift: Fraction = 0.03
    electrons: float = Field(default=400.0, ge=0)
    missing: Tiles = ""
    blurred: Tiles = ""
    blank: Tiles = ""
    jumped: Tiles = ""
    blur_px: float = Field(default=4.0, gt=0)
    jump_px: float = 60.0
    stage_speed_um_s: float = Field(default=500.0, gt=0)
    stage_settle_ms: float = Field(default=30.0, ge=0)
    stage_limit_um: float = Field(default=1500.0, gt=0)
    apertures: int = Field(default=100, gt=0)
