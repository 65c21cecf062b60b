"""One tilt series as a folder of files: whole or absent, resumed tilt by tilt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.backends.backend import Backend
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.image_files import ImageFiles, Marks
from em_platform.simulation.tilt_series.labels import write_labels
from em_platform.simulation.tilt_series.particles import file_digest
from em_platform.simulation.tilt_series.pictures import write_previews
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.sample import SampleOf
from em_platform.simulation.tilt_series.series import tilts_of
from em_platform.simulation.tilt_series.tables import write_tables
from em_platform.simulation.tilt_series.truth import (
    Truth,
    fiducial_truth,
    particle_truth,
    tilt_truth,
)
from em_platform.storage.growing_folder import digest_of, growing_folder, is_done

KIND = "simulated tilt series"

_KERNELS = 2
"""Version of the physics: a folder of another version is not resumed, nor current."""

Progress = Callable[[str, int, int], None]
"""What is done, how many of it, of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeStack:
    """Where a stack lies, and how many of its tilts this call made."""

    name: str
    folder: Path
    tilts: int
    made: int


def simulate_stack(
    plan: Plan,
    stack: int,
    output: Path,
    *,
    sample_of: SampleOf,
    backend: Backend,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> MadeStack:
    """The folder `output/<name of the stack>`, made, resumed, or left as it stands.

    Parameters
    ----------
    sample_of
        Gives the sample; not called where the stack stands already.
    overwrite
        A stack of another plan may be replaced.

    Raises
    ------
    OutputRefused
        What stands there is not to be replaced.
    OutputBusy
        Another process makes it.
    StorageError
        The disk is full, or the like; nothing half-made stays.
    PlatformError
        Of the assembler or the back-end.
    """
    name = plan.stack_name(stack)
    folder = output / name
    tilts = tilts_of(plan, stack)
    files = {kind.name: file_digest(kind) for kind in plan.sources}
    of = _fingerprint(plan, stack, files=files, backend=backend.name)
    if is_done(folder, KIND, of=of):
        return MadeStack(name=name, folder=folder, tilts=len(tilts), made=0)
    with growing_folder(folder, KIND, of=of, overwrite=overwrite) as own:
        sample = sample_of(stack)
        made, marks = _write_images(
            own, plan, stack, sample=sample, tilts=tilts, backend=backend,
            progress=progress,
        )  # fmt: skip
        truth = _truth(
            plan, stack, sample=sample, tilts=tilts, files=files,
            backend=backend.name,
        )  # fmt: skip
        write_tables(own, plan, truth=truth, tilts=tilts, marks=marks)
        if plan.outputs.label_pixels:
            write_labels(own, plan, sample, name=name)
        if plan.outputs.previews:
            write_previews(own, truth=truth, sample=sample)
    return MadeStack(name=name, folder=folder, tilts=len(tilts), made=made)


def _fingerprint(plan: Plan, stack: int, *, files: dict[str, str], backend: str) -> str:
    # More stacks of the same plan leave those that are there current.
    kept = plan.model_dump_json(exclude={"stacks"})
    return digest_of(kept, stack, files, backend, _KERNELS)


def _write_images(
    own: Path,
    plan: Plan,
    stack: int,
    *,
    sample: Sample,
    tilts: Sequence[Tilt],
    backend: Backend,
    progress: Progress | None,
) -> tuple[int, list[Marks]]:
    """How many tilts were made now, and the marks of all."""
    name = plan.stack_name(stack)
    with ImageFiles(own, plan, name=name, tilts=len(tilts)) as files:
        missing = [tilt for tilt in tilts if tilt.index not in files.done]
        images = backend.images(plan, stack, sample=sample, tilts=missing)
        for tilt, image in zip(missing, images, strict=True):
            files.write(tilt, image)
            if progress:
                progress(name, len(files.done), len(tilts))
        return len(missing), files.finish()


def _truth(
    plan: Plan,
    stack: int,
    *,
    sample: Sample,
    tilts: Sequence[Tilt],
    files: dict[str, str],
    backend: str,
) -> Truth:
    return Truth(
        stack=plan.stack_name(stack),
        number=stack,
        backend=backend,
        plan=plan.model_copy(update={"stacks": 1}),
        files=files,
        tilts=tilt_truth(tilts, plan=plan, stack=stack),
        particles=particle_truth(sample),
        fiducials=fiducial_truth(sample, plan),
        facts=sample.facts,
    )
