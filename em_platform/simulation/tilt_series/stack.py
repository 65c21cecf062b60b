"""One tilt series as a folder of files: whole or absent, resumed tilt by tilt."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from em_platform.formats.mrc_stack import MrcStack, SectionMark
from em_platform.formats.tilt_mdoc import MdocTilt, tilt_mdoc
from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.backends.backend import Backend
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.particles import file_digest
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.poses import write_poses
from em_platform.simulation.tilt_series.sample import SampleOf
from em_platform.simulation.tilt_series.series import TiltImage, tilts_of
from em_platform.simulation.tilt_series.truth import (
    Truth,
    fiducial_truth,
    particle_truth,
    tilt_truth,
)
from em_platform.storage.growing_folder import digest_of, growing_folder, is_done

KIND = "simulated tilt series"

_KERNELS = 1
"""Version of the physics: a folder of another version is not resumed, nor current."""

_LOG = "tilts.jsonl"
_FIRST_IMAGE = datetime(2020, 1, 1)
"""A date of the clock would make other bytes each time."""
_BETWEEN_IMAGES = timedelta(seconds=20)
_EXPOSURE_S = 1.0

Progress = Callable[[str, int, int], None]
"""What is done, how many of it, of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeStack:
    """Where a stack lies, and how many of its tilts this call made."""

    name: str
    folder: Path
    tilts: int
    made: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marks:
    """What a finished tilt left in the stacks."""

    noisy: SectionMark
    clean: SectionMark


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
        _write_tables(own, plan, truth=truth, tilts=tilts, marks=marks)
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
) -> tuple[int, list[_Marks]]:
    """How many tilts were made now, and the marks of all."""
    name = plan.stack_name(stack)
    with _stacks(own, plan, name, tilts=len(tilts)) as (noisy, clean):
        done = {
            index: marks
            for index, marks in _logged(own / _LOG)
            if noisy.is_whole(index, marks.noisy) and clean.is_whole(index, marks.clean)
        }
        missing = [tilt for tilt in tilts if tilt.index not in done]
        images = backend.images(plan, stack, sample=sample, tilts=missing)
        with (own / _LOG).open("a") as log:
            # A line that a kill has cut short must not swallow the next.
            log.write("\n")
            for tilt, image in zip(missing, images, strict=True):
                done[tilt.index] = _written(noisy, clean, tilt, image)
                log.write(json.dumps([tilt.index, asdict(done[tilt.index])]) + "\n")
                log.flush()
                if progress:
                    progress(name, len(done), len(tilts))
        marks = [done[tilt.index] for tilt in tilts]
        noisy.finish([each.noisy for each in marks])
        clean.finish([each.clean for each in marks])
    (own / _LOG).unlink()
    return len(missing), marks


def _written(noisy: MrcStack, clean: MrcStack, tilt: Tilt, image: TiltImage) -> _Marks:
    return _Marks(
        noisy=noisy.write(tilt.index, image.noisy),
        clean=clean.write(tilt.index, image.clean),
    )


@contextmanager
def _stacks(
    own: Path, plan: Plan, name: str, *, tilts: int
) -> Iterator[tuple[MrcStack, MrcStack]]:
    shape = tilts, plan.camera.height_px, plan.camera.width_px
    with ExitStack() as opened:
        noisy, clean = (
            opened.enter_context(MrcStack(path, shape, pixel_nm=plan.pixel_nm))
            for path in (own / f"{name}.mrc", own / f"{name}_clean.mrc")
        )
        yield noisy, clean


def _logged(log: Path) -> Iterator[tuple[int, _Marks]]:
    """The tilts that an interrupted call wrote; a line cut short is none."""
    for line in log.read_text().splitlines() if log.is_file() else []:
        try:
            index, marks = json.loads(line)
        except ValueError:
            continue
        noisy, clean = (SectionMark(**marks[name]) for name in ("noisy", "clean"))
        yield index, _Marks(noisy=noisy, clean=clean)


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


def _write_tables(
    own: Path,
    plan: Plan,
    *,
    truth: Truth,
    tilts: Sequence[Tilt],
    marks: Sequence[_Marks],
) -> None:
    name = truth.stack
    (own / "truth.json").write_text(truth.text())
    lines = [f"{tilt.nominal_deg:8.3f}" for tilt in tilts]
    (own / f"{name}.rawtlt").write_text("\n".join([*lines, ""]))
    camera = plan.camera
    pixels = camera.height_px * camera.width_px
    (own / f"{name}.mrc.mdoc").write_text(
        tilt_mdoc(
            [
                _mdoc_of(plan, truth.number, tilt, mark.noisy, pixels=pixels)
                for tilt, mark in zip(tilts, marks, strict=True)
            ],
            image_file=f"{name}.mrc",
            size_px=(camera.width_px, camera.height_px),
            pixel_nm=plan.pixel_nm,
            voltage_kv=plan.beam.voltage_kv,
        )
    )
    write_poses(own, truth.particles, plan=plan, stack=name)


def _mdoc_of(
    plan: Plan, stack: int, tilt: Tilt, mark: SectionMark, *, pixels: int
) -> MdocTilt:
    """As a microscope would know it: nominal angles, no errors of the stage."""
    targets = plan.objective.defocus_um
    return MdocTilt(
        tilt_deg=tilt.nominal_deg,
        stage_um=(0.0, 0.0),
        dose_e_per_nm2=tilt.dose_per_nm2,
        prior_dose_e_per_nm2=tilt.prior_dose_per_nm2,
        underfocus_nm=(tilt.defocus.u_nm + tilt.defocus.v_nm) / 2,
        target_underfocus_nm=1000 * targets[stack % len(targets)],
        axis_deg=plan.tilts.axis_deg,
        image_shift_um=(0.0, 0.0),
        exposure_s=_EXPOSURE_S,
        taken_at=_FIRST_IMAGE + tilt.order * _BETWEEN_IMAGES,
        least_largest_mean=(mark.least, mark.largest, mark.total / pixels),
    )
