"""The simulator of this project: every tilt is made alone, by threads."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.backends.threads import in_order
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.layers import scene_of
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.series import TiltImage, image_tilt
from em_platform.stitching.compute import Map

# A task of Dask costs some ms; a tilt of 256^2 pixels takes 20.
_MOST_A_TASK, _TASK_PIXELS = 8, 2**19


class Embedded:
    """Threads suffice: transforms, kernels and random numbers run without the lock."""

    name = "embedded"

    def __init__(self, *, workers: int = 1, run: Map | None = None) -> None:
        self._workers, self._run = workers, run

    def images(
        self, plan: Plan, stack: int, *, sample: Sample, tilts: Sequence[Tilt]
    ) -> Iterator[TiltImage]:
        """The images of `tilts`, in order; the same with any number of workers."""
        make = partial(
            image_tilt, plan, stack, scene=scene_of(sample, pixel_nm=plan.pixel_nm)
        )
        if self._run is None:
            yield from in_order(make, tilts, workers=self._workers)
            return
        pixels = plan.camera.height_px * plan.camera.width_px
        many = max(1, min(_MOST_A_TASK, _TASK_PIXELS // pixels))
        groups = [tilts[at : at + many] for at in range(0, len(tilts), many)]
        for images in self._run(partial(_all_of, make), groups):
            yield from images


def _all_of(
    make: Callable[[Tilt], TiltImage], tilts: Sequence[Tilt]
) -> list[TiltImage]:
    return [make(tilt) for tilt in tilts]
