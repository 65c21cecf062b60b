"""The simulator of this project: every tilt is made alone, by threads."""

from collections.abc import Iterator, Sequence
from functools import partial

from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.backends.threads import in_order
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.layers import scene_of
from em_platform.simulation.tilt_series.plan import Plan
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
        make = partial(
            image_tilt, plan, stack, scene=scene_of(sample, pixel_nm=plan.pixel_nm)
        )
        yield from in_order(make, tilts, workers=self._workers)
