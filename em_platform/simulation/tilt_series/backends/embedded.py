"""The simulator of this project: every tilt is made alone, by threads."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.project import template
from em_platform.simulation.tilt_series.series import TiltImage, image_tilt


class Embedded:
    """Threads suffice: transforms, kernels and random numbers run without the lock."""

    name = "embedded"

    def __init__(self, *, workers: int = 1) -> None:
        self._workers = workers

    def images(
        self, plan: Plan, stack: int, *, sample: Sample, tilts: Sequence[Tilt]
    ) -> Iterator[TiltImage]:
        """The images of `tilts`, in order; the same with any number of workers."""
        templates = [
            template(each.potential_v, voxel_nm=each.voxel_nm) for each in sample.maps
        ]
        make = partial(
            image_tilt, plan, stack, particles=sample.particles, templates=templates
        )
        if self._workers == 1:
            yield from map(make, tilts)
            return
        waiting: deque[Future[TiltImage]] = deque()
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for tilt in tilts:
                    waiting.append(pool.submit(make, tilt))
                    # One more than there are workers: none waits for the writer, and
                    # memory holds a few tilts only.
                    if len(waiting) > self._workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for each in waiting:
                    each.cancel()
