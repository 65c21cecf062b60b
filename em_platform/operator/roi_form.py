"""From the page's form to the fields of `roi.create`."""

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from em_platform.acquisition.roi import roi_of
from em_platform.config import Settings
from em_platform.errors import ConfigError
from em_platform.model import Model, Size
from em_platform.operator.modes import SETUP


class RoiForm(Model):
    """A rectangle to image: so many rows and columns, or so wide and high.

    The centre lies on the stage, as (x, y) from the middle of the aperture. Only a
    rectangle by size can be turned.
    """

    montage_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)
    roi_name: str = Field(default="", max_length=200)
    aperture_id: int = Field(ge=0)
    center_x_um: float = 0.0
    center_y_um: float = 0.0
    rows: int | None = Field(default=None, gt=0, le=2000)
    columns: int | None = Field(default=None, gt=0, le=2000)
    width_um: float | None = Field(default=None, gt=0)
    height_um: float | None = Field(default=None, gt=0)
    angle_deg: float = Field(default=0.0, ge=-360, le=360)
    overlap_percent: int | None = Field(default=None, ge=0, lt=100)
    kind: Literal["montage", "lens_correction"] = "montage"
    calibrations: tuple[str, ...] = ()
    queue_position: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        by_tiles = self.rows is not None and self.columns is not None
        by_size = self.width_um is not None and self.height_um is not None
        if by_tiles == by_size:
            raise ValueError("give rows and columns, or width and height")
        if by_tiles and self.angle_deg:
            raise ValueError("an angle goes with width and height, not with rows")
        unknown = sorted(set(self.calibrations) - set(SETUP))
        if unknown:
            raise ValueError(f"no calibration is called {', '.join(unknown)}")
        return self


def create_fields(
    form: RoiForm, settings: Settings, *, frame: Size | None, pending: int
) -> dict[str, Any]:
    """The body of `roi.create`; it goes to the end of the queue where none is given.

    Parameters
    ----------
    frame
        Size of the camera's frames, None for that of the settings.
    pending
        How many regions wait already.
    """
    if form.rows is not None and form.columns is not None:
        fields = roi_of(
            form.montage_id,
            form.aperture_id,
            form.rows,
            form.columns,
            None if form.overlap_percent is None else form.overlap_percent / 100,
            settings,
            frame=frame,
            center_nm=(form.center_x_um * 1000, form.center_y_um * 1000),
        )
    else:
        fields = _by_size(form)
    position = pending if form.queue_position is None else form.queue_position
    return {
        **fields,
        "roi_name": form.roi_name or None,
        "acquisition_type": form.kind,
        "calibrations": dict.fromkeys(form.calibrations, True),
        "queue_position": position,
    }


def _by_size(form: RoiForm) -> dict[str, Any]:
    if form.width_um is None or form.height_um is None:
        raise ConfigError("roi: it has no size; give width and height")
    x, y = form.center_x_um * 1000, form.center_y_um * 1000
    half_x, half_y = form.width_um * 500, form.height_um * 500
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return {
        "montage_id": form.montage_id,
        "aperture_id": form.aperture_id,
        "vertices": [{"x": x + i * half_x, "y": y + j * half_y} for i, j in corners],
        "center": {"x": x, "y": y},
        "rotation_angle": math.radians(form.angle_deg),
        "overlap": form.overlap_percent,
    }
