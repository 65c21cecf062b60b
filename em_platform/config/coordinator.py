"""Settings of the coordinator, the microscope's state machine."""

from pydantic import Field

from em_platform.config.routines import RoutineSettings
from em_platform.model import Model


class CoordinatorSettings(Model):
    """How a session is run, and when it stops before the next aperture.

    A request to a device is repeated `request_tries` times after `request_timeout_s`
    each (`acquisition.*`). A session stops before an aperture with less than
    `min_free_gb` on the frames' disk, or after `max_errors` errors.
    """

    min_free_gb: float = Field(default=1.0, ge=0)
    max_errors: int = Field(default=3, gt=0)
    routines: RoutineSettings = RoutineSettings()
