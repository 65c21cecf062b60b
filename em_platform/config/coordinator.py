"""Settings of the coordinator, the microscope's state machine."""

from typing import Literal

from pydantic import Field

from em_platform.config.routines import RoutineSettings
from em_platform.model import Model


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
    """

    min_free_gb: float = Field(default=1.0, ge=0)
    max_errors: int = Field(default=3, gt=0)
    min_beam_mean: float = Field(default=0.0, ge=0)
    require_brightfield: bool = False
    require_darkfield: bool = False
    existing_data: Literal["keep", "refuse"] = "keep"
    preview_s: float = Field(default=5.0, ge=0)
    survey_magnification: int = Field(default=200, gt=0)
    lens_tiles: int = Field(default=3, gt=1)
    lens_overlap: float = Field(default=0.6, gt=0, lt=1)
    lens_timeout_s: float = Field(default=60.0, gt=0)
    lens_tries: int = Field(default=3, gt=0)
    routines: RoutineSettings = RoutineSettings()
