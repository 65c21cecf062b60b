"""Settings of the calibration routines: how far they search, when they are content."""

from pydantic import Field

from em_platform.model import Model


class RoutineSettings(Model):
    """What the coordinator's calibrations aim at.

    Reference frames are means of `reference_frames` exposures; for the bright one the
    stage moves by `bright_step` of the frame's width before each, and the focus is
    `bright_defocus` steps off. `focus_range` is how far to either side
    AutoFocus seeks, in steps of the focus knob, and `focus_step` its coarse step.
    AutoExposure wants a mean of `mean_grey` of 255, give or take `mean_tolerance`.

    The narrow beam of BeamCenter lies within `center_tolerance` of `center_brightness`,
    the spread one of BeamSpread within `spread_tolerance` of `spread_brightness`.
    `offset_step` is the first step of the beam's shift. The beam counts as centred
    within `center_px` of 1000 pixels of the frame's width, and must be that far for
    three times as much at most; a spread beam has a radius of `beam_radius` half
    diagonals of the frame.

    FindAperture works at the LOWMAG `aperture_mag`, expects a slot of
    `aperture_width_mm` by `aperture_height_mm`, takes a frame's middle below
    `tape_threshold` for tape and stops at steps of `aperture_step_nm`.
    CalibrateResolution moves the stage by `resolution_step` of the frame's width.
    """

    reference_frames: int = Field(default=16, gt=0)
    bright_step: float = Field(default=1.0, gt=0)
    bright_defocus: int = 1000
    focus_range: int = Field(default=600, gt=0)
    focus_step: int = Field(default=100, gt=0)
    mean_grey: float = Field(default=140.0, gt=0, lt=255)
    mean_tolerance: float = Field(default=8.0, gt=0)
    center_brightness: int = Field(default=1100, gt=0)
    center_tolerance: int = Field(default=200, gt=0)
    spread_brightness: int = Field(default=1300, gt=0)
    spread_tolerance: int = Field(default=150, gt=0)
    offset_step: int = Field(default=50, gt=0)
    center_px: float = Field(default=10.0, gt=0)
    beam_radius: float = Field(default=1.6, gt=1)
    aperture_mag: int = Field(default=100, ge=50, le=1500)
    aperture_width_mm: float = Field(default=2.0, gt=0)
    aperture_height_mm: float = Field(default=1.5, gt=0)
    aperture_step_nm: int = Field(default=1000, gt=0)
    tape_threshold: float = Field(default=50.0, gt=0)
    resolution_step: float = Field(default=0.25, gt=0, lt=0.5)
