"""The simulator of this project: each tilt is made alone, here or by Dask's workers."""

from collections.abc import Iterator, Sequence
from functools import partial

from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.layers import Scene, scene_of
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.series import TiltImage, image_tilt
from em_platform.stitching.compute import Mapper, serial

# A task of Dask costs some ms; a tilt of 256^2 pixels takes 20.
_MOST_A_TASK, _TASK_PIXELS = 4, 2**18


class Embedded:
    """Makes its images by `run`, which may use threads: nothing holds Python's lock."""

    name = "embedded"

    def __init__(self, run: Mapper = serial) -> None:
        self._run = run

    def images(
        self, plan: Plan, stack: int, *, sample: Sample, tilts: Sequence[Tilt]
    ) -> Iterator[TiltImage]:
        """The images of `tilts`, in order; the same with any number of workers."""
        scene = scene_of(sample, pixel_nm=plan.pixel_nm)
        pixels = plan.camera.height_px * plan.camera.width_px
        many = max(1, min(_MOST_A_TASK, _TASK_PIXELS // pixels))
        groups = [tilts[at : at + many] for at in range(0, len(tilts), many)]
        for images in self._run(partial(_images, plan, stack, scene), groups):
            yield from images


def _images(
    plan: Plan, stack: int, scene: Scene, tilts: Sequence[Tilt]
) -> list[TiltImage]:
    return [image_tilt(plan, stack, tilt, scene=scene) for tilt in tilts]
