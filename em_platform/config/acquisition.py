"""Settings of the microscope, real or simulated, and of the recorder."""

from pydantic import Field

from em_platform.config.coordinator import CoordinatorSettings
from em_platform.config.pipeline import PipelineSettings
from em_platform.config.qc import MontageFitSettings, QcSettings
from em_platform.config.services import BufferSettings, OperatorSettings
from em_platform.config.simulation import SimulationSettings
from em_platform.model import Model


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
    """

    microscope: str = "sim"
    simulated: bool = True
    magnification: int = 2000
    pixel_nm: float = Field(default=4.0, gt=0)
    rows: int = Field(default=4, gt=0)
    columns: int = Field(default=4, gt=0)
    overlap: float = Field(default=0.12, ge=0, lt=1)
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
