"""What a back-end is: it makes the images of a tilt series from its sample."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.series import TiltImage


class Backend(Protocol):
    """Makes images; all else of a stack (truth, poses, files) is made without it."""

    @property
    def name(self) -> str:
        """By which the command line and the truth file call it."""
        ...

    def images(
        self, plan: Plan, stack: int, *, sample: Sample, tilts: Sequence[Tilt]
    ) -> Iterator[TiltImage]:
        """The images of `tilts`, in their order; those of a resumed stack are fewer.

        The tilts are as stage and beam really were: a back-end draws no errors of its
        own, so that the truth is the same whichever makes the images.

        Raises
        ------
        PlatformError
            They cannot be made; the sentence says why.
        """
        ...
