"""An imaged montage as it is registered in TEM DB, and a run that TEM DB has."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from em_platform.model import Model, Size

# The words of temdb-models 3.0.0.
Position = Literal["invalid", "center", "left", "top", "right", "bottom"]

RunStatus = Literal["complete", "aborted", "failed"]
TransferState = Literal["not_started", "in_progress", "complete", "error"]
QcState = Literal["pending", "qc_pass", "qc_fail", "needs_review"]
TaskState = Literal["pending", "acquired", "complete", "failed", "needs_review"]


class AcquiredMontage(Model):
    """One run over one region, as the microscope reported it.

    Unknown values stay at its default: the register then makes parents of that
    name. `section_id` may be TEM DB's own (`<media>_S<number>`). `vertices_nm` are
    `(x, y)` of the stage. `task_id` is the plan, where there is one; else a task of the
    montage's name is made. `replaces_acquisition_id` is the run that is imaged again.
    """

    # It names folders and stands in URLs: no slash, no dot or dash in front.
    acquisition_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    montage_id: str = Field(min_length=1)
    kind: Literal["montage", "lens_correction"] = "montage"
    specimen_id: str = "unassigned"
    section_id: str | None = None
    aperture_id: int | None = None
    vertices_nm: tuple[tuple[float, float], ...] = ()
    task_id: str | None = None
    replaces_acquisition_id: str | None = None
    tilt_deg: float | None = None

    microscope: str = "unknown"
    magnification: int = 0
    spot_size: int = 0
    pixel_nm: float = 0.0
    rotation_rad: float = 0.0
    aperture_centroid_nm: tuple[float, float] | None = None

    camera_model: str = "unknown"
    camera_serial: str = "unknown"
    camera_bit_depth: int = 8
    saved_bit_depth: int = 8
    exposure_us: float = 0.0
    tile_size: Size
    overlap_px: float = 0.0

    started_at: datetime
    ended_at: datetime | None = None


class MatchedNeighbour(Model):
    """The measured place of one tile beside a neighbour; one entry of `tile.matches`.

    `good_matches` is how many templates were found again: TEM DB's match quality.
    """

    row: int
    column: int
    position: Position
    dx_px: float
    dy_px: float
    dx_sd_px: float = 0.0
    dy_sd_px: float = 0.0
    distance_px: float = 0.0
    rotation_rad: float = 0.0
    good_matches: float = 0.0
    p_x: tuple[float, ...] = ()
    p_y: tuple[float, ...] = ()
    q_x: tuple[float, ...] = ()
    q_y: tuple[float, ...] = ()


class AcquiredTile(Model):
    """One tile of it, with what the pipeline measured.

    `focus` is that of `tile.statistics.focus`: 0..1, lower is sharper. TEM DB keeps
    `1 - focus`, as there a larger score is the better one.
    """

    tile_id: str = Field(min_length=1)
    raster_index: int = Field(ge=0)
    row: int
    column: int
    stage_x_nm: float
    stage_y_nm: float
    uri: str = Field(min_length=1)
    # Not measured counts as the worst.
    focus: float = 1.0
    minimum: float = 0.0
    maximum: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    matches: tuple[MatchedNeighbour, ...] = ()


class KnownRun(Model):
    """What TEM DB knows of one acquisition; `places` are its storage locations."""

    acquisition_id: str
    montage_id: str
    task_id: str
    status: RunStatus | None
    qc_state: QcState
    qc_by: str | None
    transfer_state: TransferState
    replaces_acquisition_id: str | None
    tile_count: int
    places: tuple[str, ...]
