"""Settings of the simulated microscope: what it sees, and what is wrong with it."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from em_platform.model import Model

# A count, or pairs; checked here, so that the sentence names the setting.
_PLACES = r"^(\d+|\d+:\d+([ ,]+\d+:\d+)*)?$"
# A count comes from YAML as a number.
Tiles = Annotated[str, BeforeValidator(str), Field(pattern=_PLACES)]
"""Nothing, a number of tiles that the seed chooses, or `row:column row:column ...`."""

Fraction = Annotated[float, Field(ge=0, le=1)]


def _whole(value: Any) -> Any:
    """A number that comes as text, from the environment; others are judged as such."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class SimulationSettings(Model):
    """The simulated scope, stage and camera.

    `specimen` is the path of an image, a folder of images (one a section) or an
    OME-Zarr; empty means procedural tissue. The stage misses its target by up to
    `jitter_px` along both axes. `lens_px` is the lens's displacement at the middle of
    an edge. `missing`, `blurred`, `blank` and `jumped` tiles: how many of a montage, or
    which (`1:2 3:0`, row:column). With one `seed` all frames are the same again.

    `misalignment` (0 to 1) is how far the column is out of adjustment: focus, beam,
    exposure, pixel size and the aperture's place are then off by amounts that the seed
    decides and that no message carries. The tissue repeats every `tissue_repeat_px`
    pixels (0: never), which spares the time to draw it anew. The slot of the tape that
    LOWMAG shows is `aperture_width_mm` by `aperture_height_mm`.

    The camera's frames have `tile_px` by `tile_px` pixels of `bit_depth` bits and take
    `exposure_ms`; `electrons` a pixel give the noise (0: none). The camera is turned by
    `rotation_deg` against the stage, each tile besides by `turn_sd_deg`. `vignette` is
    the fall of light towards the corners, `pattern` the fixed pattern of the sensor,
    `dust` the number of specks, `drift` the change of the beam over a montage.
    `blurred` tiles have a blur of `blur_px`, `jumped` ones miss their place by
    `jump_px`. The tape is not level: the first and the last column of a montage have a
    blur of `focus_gradient_px`, its middle none.

    A section has `knife_marks` in 10 um across the cut, and `folds` in a square of
    100 um. Marks go on from section to section, folds do not.

    The stage moves by `stage_speed_um_s`, settles for `stage_settle_ms` and ends at
    `stage_limit_um`; it tilts by `tilt_speed_deg_s` up to `tilt_limit_deg`. The tape
    has that many `apertures`; the next one takes `aperture_change_s`. A step of the
    autoloader takes `transfer_step_s`.
    """

    seed: int = Field(default=1, ge=0)
    specimen: str = ""
    tile_px: int = Field(default=1024, ge=64, le=16384)
    bit_depth: Annotated[Literal[8, 16], BeforeValidator(_whole)] = 8
    exposure_ms: float = Field(default=20.0, gt=0)
    jitter_px: float = Field(default=10.0, ge=0)
    rotation_deg: float = 0.0
    turn_sd_deg: float = Field(default=0.0, ge=0)
    lens_px: float = 0.0
    vignette: Fraction = 0.15
    pattern: Fraction = 0.02
    dust: int = Field(default=6, ge=0)
    drift: Fraction = 0.03
    electrons: float = Field(default=400.0, ge=0)  # noise of 1/20 of the grey level
    missing: Tiles = ""
    blurred: Tiles = ""
    blank: Tiles = ""
    jumped: Tiles = ""
    blur_px: float = Field(default=4.0, gt=0)
    jump_px: float = 60.0
    focus_gradient_px: float = Field(default=0.0, ge=0)
    # The lattices of `simulation.specimen.cutting` have room for so many.
    knife_marks: float = Field(default=0.0, ge=0, le=4)
    folds: float = Field(default=0.0, ge=0, le=16)
    stage_speed_um_s: float = Field(default=500.0, gt=0)
    stage_settle_ms: float = Field(default=30.0, ge=0)
    stage_limit_um: float = Field(default=1500.0, gt=0)
    tilt_speed_deg_s: float = Field(default=30.0, gt=0)
    tilt_limit_deg: float = Field(default=70.0, gt=0, lt=90)
    apertures: int = Field(default=100, gt=0)
    aperture_width_mm: float = Field(default=2.0, gt=0)
    aperture_height_mm: float = Field(default=1.5, gt=0)
    aperture_change_s: float = Field(default=0.2, ge=0)
    transfer_step_s: float = Field(default=0.2, ge=0)
    misalignment: Fraction = 0.0
    # Tissue is drawn in squares of 64 px (`simulation.specimen`).
    tissue_repeat_px: int = Field(default=0, ge=0, multiple_of=64)
