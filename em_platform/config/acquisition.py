"""Settings of the microscope, real or simulated, and of the recorder."""

from pydantic import Field

from em_platform.model import Model


class AcquisitionSettings(Model):
    """Which microscope, where its frames lie, where its events are recorded.

    `recorder_url` is an SQLAlchemy URL; empty means an SQLite file under `home`.
    `frames` is the folder in which the camera saves; empty means `frames` under `home`.
    Folders of tiles that are dropped into `inbox` (empty: `inbox` under `home`) are
    stitched when nothing in them has changed for `inbox_quiet_s`.
    """

    microscope: str = "sim"
    magnification: int = 2000
    pixel_nm: float = Field(default=4.0, gt=0)
    recorder_url: str = ""
    frames: str = ""
    inbox: str = ""
    inbox_quiet_s: float = Field(default=5.0, gt=0)
