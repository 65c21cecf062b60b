"""The images of a stack on disk: noisy, clean, movies; each tilt is there or is not.

A line of a log says of each finished tilt by which CRC-32 its sections are known. After
a kill, sections that agree with their line are kept, and all others are made again.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from em_platform.formats.mrc_stack import MrcStack, SectionMark
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.series import TiltImage

_LOG = "tilts.jsonl"
FRAMES = "frames"
"""Folder of the movies, in the folder of a stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What a finished tilt left on disk."""

    noisy: SectionMark
    clean: SectionMark
    frames: tuple[SectionMark, ...] = ()


def frames_name(plan: Plan, name: str, tilt: Tilt) -> str:
    """The file of a tilt's movie, as SerialEM names them; "": it has none."""
    if plan.camera.frames == 1:
        return ""
    return f"{FRAMES}/{name}_{tilt.order:03d}_{tilt.nominal_deg:.1f}.mrc"


class ImageFiles:
    """The files of one stack while they grow, with what an interrupted call wrote."""

    def __init__(self, folder: Path, plan: Plan, *, name: str, tilts: int) -> None:
        self._folder = folder
        self._plan = plan
        self._name = name
        self._shape = plan.camera.height_px, plan.camera.width_px
        self._tilts = tilts
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        shape = self._tilts, *self._shape
        self._noisy, self._clean = (
            self._opened.enter_context(
                MrcStack(self._folder / file, shape, pixel_nm=self._plan.pixel_nm)
            )
            for file in (f"{self._name}.mrc", f"{self._name}_clean.mrc")
        )
        self.done = dict(self._logged())
        self._log = self._opened.enter_context((self._folder / _LOG).open("a"))
        # A line that a kill has cut short must not swallow the next.
        self._log.write("\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def write(self, tilt: Tilt, image: TiltImage) -> None:
        """Put one tilt in its place, and say so in the log."""
        marks = Marks(
            noisy=self._noisy.write(tilt.index, image.noisy),
            clean=self._clean.write(tilt.index, image.clean),
            frames=self._write_frames(tilt, image.frames),
        )
        self.done[tilt.index] = marks
        file = frames_name(self._plan, self._name, tilt)
        self._log.write(json.dumps([tilt.index, file, asdict(marks)]) + "\n")
        self._log.flush()

    def finish(self) -> list[Marks]:
        """Write the headers; the marks of all tilts."""
        marks = [self.done[index] for index in range(self._tilts)]
        self._noisy.finish([each.noisy for each in marks])
        self._clean.finish([each.clean for each in marks])
        (self._folder / _LOG).unlink()
        return marks

    def _write_frames(
        self, tilt: Tilt, frames: NDArray[np.float32] | None
    ) -> tuple[SectionMark, ...]:
        if frames is None:
            return ()
        path = self._folder / frames_name(self._plan, self._name, tilt)
        path.parent.mkdir(exist_ok=True)
        with self._movie(path, len(frames)) as movie:
            marks = [movie.write(number, each) for number, each in enumerate(frames)]
            movie.finish(marks)
        return tuple(marks)

    def _movie(self, path: Path, frames: int) -> MrcStack:
        return MrcStack(path, (frames, *self._shape), pixel_nm=self._plan.pixel_nm)

    def _logged(self) -> Iterator[tuple[int, Marks]]:
        log = self._folder / _LOG
        for line in log.read_text().splitlines() if log.is_file() else []:
            try:
                index, file, found = json.loads(line)
            except ValueError:  # cut short
                continue
            marks = _marks_of(found)
            if self._is_whole(index, marks, self._folder / file):
                yield index, marks

    def _is_whole(self, index: int, marks: Marks, movie: Path) -> bool:
        if not self._noisy.is_whole(index, marks.noisy):
            return False
        if not self._clean.is_whole(index, marks.clean):
            return False
        if not marks.frames:
            return True
        if not movie.is_file():
            return False
        with self._movie(movie, len(marks.frames)) as opened:
            return all(
                opened.is_whole(number, each)
                for number, each in enumerate(marks.frames)
            )


def _marks_of(found: Any) -> Marks:
    noisy, clean = (SectionMark(**found[name]) for name in ("noisy", "clean"))
    frames = tuple(SectionMark(**each) for each in found["frames"])
    return Marks(noisy=noisy, clean=clean, frames=frames)
