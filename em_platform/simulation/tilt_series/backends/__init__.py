"""What makes the images of a tilt series: our own simulator, or another program."""

from em_platform.simulation.tilt_series.backends.backend import Backend
from em_platform.simulation.tilt_series.backends.embedded import Embedded

BACKENDS = ("embedded",)
"""Names of all; another one is a file here and a case below."""


def backend_of(name: str, *, workers: int) -> Backend:
    """The back-end of that name; `workers` images are made at a time."""
    if name not in BACKENDS:
        raise AssertionError(f"no back-end {name}")
    return Embedded(workers=workers)
