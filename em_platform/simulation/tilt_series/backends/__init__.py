"""What makes the images of a tilt series: our own simulator, or another program."""

from em_platform.simulation.tilt_series.backends.backend import Backend
from em_platform.simulation.tilt_series.backends.embedded import Embedded
from em_platform.simulation.tilt_series.backends.tem_simulator import TemSimulator
from em_platform.stitching.compute import Mapper, local_map


def backend_of(
    name: str,
    *,
    workers: int,
    run: Mapper | None = None,
    program: str = "",
    timeout_s: float = 3600,
) -> Backend:
    """The back-end of that name; `workers` images are made at a time.

    The embedded one does them by `run` where it is given, as on Dask's workers.
    `program` is the path of the outside program, empty where it is on PATH; a tilt
    that takes it longer than `timeout_s` is ended. ToolMissing where there is none.
    """
    if name == "embedded":
        return Embedded(run or local_map(workers))
    if name == "tem_simulator":
        return TemSimulator(program, run=local_map(workers), timeout_s=timeout_s)
    raise AssertionError(f"no back-end {name}")
