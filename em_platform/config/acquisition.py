"""Settings of the microscope, real or simulated, and of the recorder."""

from typing import Literal

from pydantic import Field

from em_platform.config.services import BufferSettings, OperatorSettings
from em_platform.config.simulation import SimulationSettings
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
    # Beam and first step of the search as in pyTEM's BeamCenter and BeamSpread.
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
    # Both as in pyTEM's FindAperture.
    aperture_step_nm: int = Field(default=1000, gt=0)
    tape_threshold: float = Field(default=50.0, gt=0)
    # Frames half a width apart share too little to be compared.
    resolution_step: float = Field(default=0.25, gt=0, lt=0.5)


class CoordinatorSettings(Model):
    """How a session is run, and when it stops before the next aperture.

    A request to a device is repeated `request_tries` times after `request_timeout_s`
    each (`acquisition.*`). A session stops before an aperture with less than
    `min_free_gb` on the frames' disk beside the aperture's own frames, after
    `max_errors` failed requests, when the last tile's mean was below `min_beam_mean`
    (grey levels, 0: never), when there is no brightfield or darkfield though one is
    required, and with `existing_data: refuse` when the montage has frames already
    (`keep`: they stay, the new ones have other names).

    While nothing is imaged a frame is shown every `preview_s` (0: never). A survey is
    imaged at `survey_magnification`. A lens montage has `lens_tiles` by `lens_tiles`
    tiles that share `lens_overlap`; its transform is waited for `lens_timeout_s`, and
    after a bad one it is imaged again, `lens_tries` times in all.

    `require_brightfield` and `require_darkfield` ask for reference frames before a
    montage; `existing_data` is what to do about frames that are there.
    """

    min_free_gb: float = Field(default=1.0, ge=0)
    max_errors: int = Field(default=3, gt=0)  # pyTEM's default
    min_beam_mean: float = Field(default=0.0, ge=0)
    require_brightfield: bool = False
    require_darkfield: bool = False
    existing_data: Literal["keep", "refuse"] = "keep"
    preview_s: float = Field(default=5.0, ge=0)
    survey_magnification: int = Field(default=200, gt=0)
    lens_tiles: int = Field(default=3, gt=1)
    # Each point of the specimen is then seen at several places of the field.
    lens_overlap: float = Field(default=0.6, gt=0, lt=1)
    lens_timeout_s: float = Field(default=60.0, gt=0)
    lens_tries: int = Field(default=3, gt=0)
    routines: RoutineSettings = RoutineSettings()


class PipelineSettings(Model):
    """How many `processes` share the tiles, and the pictures that they make of each.

    `preview_scale` and `mini_scale` are the sizes of `tile.preview` and `tile.mini`
    relative to the frame, of which the longer side has at least `preview_min_px` and
    `mini_min_px` where the frame has as many. `clahe` raises the local contrast of
    these two pictures and of nothing else. `flip` mirrors frames left to right before
    anything is done, for a camera that sees the specimen from behind.

    A tile is given to another process when its own has not finished it for `lease_s`,
    at once when that has ended. Of a montage that is over, the journal keeps the tiles
    for `keep_s` more.
    """

    processes: int = Field(default=2, gt=0)
    preview_scale: float = Field(default=0.1, gt=0, le=1)
    preview_min_px: int = Field(default=256, gt=0)
    mini_scale: float = Field(default=0.03, gt=0, le=1)
    mini_min_px: int = Field(default=32, gt=0)
    clahe: bool = False
    flip: bool = False
    lease_s: float = Field(default=30.0, gt=0)
    keep_s: float = Field(default=3600.0, ge=0)


TileFault = Literal[
    "beam_drift",
    "contaminated",
    "incomplete",
    "no_beam",
    "no_contrast",
    "out_of_focus",
    "saturated",
    "unmatched_edge",
]
"""What can be wrong with a tile while it is imaged."""


class QcSettings(Model):
    """When single faults add up to a stop.

    The verdict is sent every `period_s` and when it changes. A fault that `max_faulty`
    of the last `window` tiles show is persistent: the scope stops at the end; faults in
    `harmless` never are. `critical_tiles` dark tiles in a row stop it now. A tile whose
    statistics or matches are `tile_wait_s` behind those of later tiles is judged
    without them. A failed check of Dagster stops the scope while its
    montage ended less than `feedback_s` ago.
    """

    period_s: float = Field(default=1.0, gt=0)
    window: int = Field(default=20, gt=0)
    max_faulty: int = Field(default=5, gt=0)
    harmless: tuple[TileFault, ...] = ()
    critical_tiles: int = Field(default=3, gt=0)
    tile_wait_s: float = Field(default=15.0, gt=0)
    feedback_s: float = Field(default=3600.0, ge=0)


class MontageFitSettings(Model):
    """How often a growing montage is fitted, and how its map is drawn.

    The fit and its pictures follow new tiles after `period_s` at the earliest. The last
    matches of a montage are waited for `wait_s`. The longer side of the montage's
    picture has at most `minimap_px`.
    """

    period_s: float = Field(default=2.0, gt=0)
    wait_s: float = Field(default=30.0, gt=0)
    minimap_px: int = Field(default=1024, ge=64, le=4096)


_USUAL_FRAME_PX = 4096  # of most TEM cameras; counts only until the camera answers


class AcquisitionSettings(Model):
    """Which microscope, where its frames lie, where its events are recorded.

    Where no scope, stage or camera answers, a simulated one is started, if `simulated`.
    `recorder_url` is an SQLAlchemy URL; empty means an SQLite file under `home`.
    `frames` is the folder in which the camera saves; empty means `frames` under `home`.
    Folders of tiles that are dropped into `inbox` (empty: `inbox` under `home`) are
    stitched when nothing in them has changed for `inbox_quiet_s`.

    A montage is a raster of `rows` by `columns` tiles that share `overlap` of an edge.
    The coordinator waits `request_timeout_s` for a device's answer, and asks again up
    to `request_tries` times.

    `microscope` is the name under which events are recorded. Montages are imaged at
    `magnification`, whose pixel has an edge of `pixel_nm`.

    `frame_px` is the edge of the camera's frames until the camera publishes it, and
    `rotation_deg` its rotation against the stage until it is calibrated. Empty means
    `simulation.tile_px` and `simulation.rotation_deg` where devices are `simulated` or
    these are set, as older configurations of real microscopes do; else 4096 and 0.
    """

    microscope: str = "sim"
    simulated: bool = True
    magnification: int = 2000
    pixel_nm: float = Field(default=4.0, gt=0)
    frame_px: int | None = Field(default=None, gt=0)
    rotation_deg: float | None = None
    rows: int = Field(default=4, gt=0)
    columns: int = Field(default=4, gt=0)
    overlap: float = Field(default=0.12, ge=0, lt=1)
    # pyTEM waits 2 to 5 s for an answer, and asks three times more.
    request_timeout_s: float = Field(default=5.0, gt=0)
    request_tries: int = Field(default=4, gt=0)
    recorder_url: str = ""
    frames: str = ""
    inbox: str = ""
    inbox_quiet_s: float = Field(default=5.0, gt=0)
    coordinator: CoordinatorSettings = CoordinatorSettings()
    pipeline: PipelineSettings = PipelineSettings()
    qc: QcSettings = QcSettings()
    montage_fit: MontageFitSettings = MontageFitSettings()
    buffer: BufferSettings = BufferSettings()
    operator: OperatorSettings = OperatorSettings()
    simulation: SimulationSettings = SimulationSettings()

    @property
    def expected_frame_px(self) -> int:
        """Edge of the camera's frames, as long as it has not published it."""
        if self.frame_px is not None:
            return self.frame_px
        if self.simulated or "tile_px" in self.simulation.model_fields_set:
            return self.simulation.tile_px
        return _USUAL_FRAME_PX

    @property
    def expected_rotation_deg(self) -> float:
        """The camera's rotation against the stage, as long as none is calibrated."""
        if self.rotation_deg is not None:
            return self.rotation_deg
        return self.simulation.rotation_deg  # 0 where nobody has set it
