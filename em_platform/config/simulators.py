"""Settings of simulations that other programs take part in."""

from pydantic import Field

from em_platform.model import Model


class TiltSeriesSettings(Model):
    """Simulated tilt series, `em-platform simulate`.

    `tem_simulator` is the path of the program TEM-simulator 1.3; empty: the one on
    PATH. A tilt that takes it longer than `tem_simulator_timeout_s` is ended.
    """

    tem_simulator: str = ""
    tem_simulator_timeout_s: float = Field(default=3600.0, gt=0)
