"""Settings of simulations that other programs take part in."""

from typing import Literal

from pydantic import Field

from em_platform.config.ingest import Names
from em_platform.model import Model


class ChimeraSettings(Model):
    """UCSF Chimera 1.x or ChimeraX, for plans with `composed_by: chimera`.

    `flavour` says which of the two; `urls` are REST servers that run on this computer
    already; without them `program` is started `windows` times. After a command that
    takes longer than `timeout_s` the program is started again, and the particle begun
    anew, up to `attempts` times. It has `start_s` to start.
    """

    flavour: Literal["chimera", "chimerax"] = "chimerax"
    program: str = ""
    urls: Names = ()
    windows: int = Field(default=1, ge=1, le=64)
    timeout_s: float = Field(default=600.0, gt=0)
    start_s: float = Field(default=120.0, gt=0)
    attempts: int = Field(default=3, ge=1)


class TiltSeriesSettings(Model):
    """Simulated tilt series, `em-platform simulate` and Dagster's `simulation` assets.

    Dagster simulates the plans (YAML) in the folder `plans` by `backend`, and writes
    the stacks to `folder`; both are under `home` where they are empty, `plans` and
    `simulations`.

    `tem_simulator` is the path of the program TEM-simulator 1.3; empty: the one on
    PATH. A tilt that takes it longer than `tem_simulator_timeout_s` is ended.
    """

    plans: str = ""
    folder: str = ""
    backend: Literal["embedded", "tem_simulator"] = "embedded"
    tem_simulator: str = ""
    tem_simulator_timeout_s: float = Field(default=3600.0, gt=0)
    chimera: ChimeraSettings = ChimeraSettings()
