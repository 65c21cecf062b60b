"""Settings of simulations that other programs take part in."""

from typing import Literal

from pydantic import Field

from em_platform.model import Model


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
