"""The steps from a plan to a catalogued tilt series, each from what the last has left.

The plan and the sample are kept in the store; the stack itself lies in a folder of
files, as other programs read it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from em_platform.catalog.ingested import record_of_volume
from em_platform.catalog.record_files import as_first_made, first_recorded, write_record
from em_platform.config import Settings
from em_platform.model import Check, Model
from em_platform.model.dataset import CoreMetadata, DagsterProvenance, DatasetRecord
from em_platform.model.volume import WrittenVolume
from em_platform.ome_zarr import convert
from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.backends.backend import Backend
from em_platform.simulation.tilt_series.data_set import LIBRARY
from em_platform.simulation.tilt_series.exports import EXPORTED, EXPORTS, export
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.planned import planned_stack
from em_platform.simulation.tilt_series.quality import (
    check_counts,
    check_files,
    check_projections,
    check_rings,
    stack_file,
)
from em_platform.simulation.tilt_series.sample import assembling, particle_maps
from em_platform.simulation.tilt_series.sample_file import decode_sample, encode_sample
from em_platform.simulation.tilt_series.stack import MadeStack, Progress, simulate_stack
from em_platform.simulation.tilt_series.truth import Truth, read_truth
from em_platform.storage import Store, layout
from em_platform.storage.growing_folder import digest_of
from em_platform.storage.guard import claim_folder

SOURCE = "simulation"
"""As which source the catalog knows simulated tilt series."""

PLAN, SAMPLE = "plan.json", "sample.npz"


class PlannedStack(Model):
    """One stack of a plan, as it was when it was asked for."""

    plan: Plan
    number: int
    digest: str
    """Of the plan without its number of stacks."""

    @property
    def name(self) -> str:
        """Of the stack, its folder and its partition."""
        return self.plan.stack_name(self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The record of a stack, and its images as an OME-Zarr."""

    record: DatasetRecord
    written: WrittenVolume


def take_plan(name: str, plans: Path, store: Store) -> PlannedStack:
    """Keep the plan of a stack as it is now, so that all later steps have the same.

    Raises
    ------
    ConfigError
        No plan in the folder has such a stack, or it is wrong.
    """
    plan, number = planned_stack(plans, name)
    digest = digest_of(plan.model_dump_json(exclude={"stacks"}))
    planned = PlannedStack(plan=plan, number=number, digest=digest)
    store.write(layout.simulated(name, PLAN), planned, PlannedStack)
    return planned


def take_library(name: str, folder: Path, store: Store) -> tuple[DensityMap, ...]:
    """The maps of the plan's particles, made once for all stacks that have them."""
    planned = kept_plan(name, store)
    claim_folder(str(folder), SOURCE)
    return particle_maps(planned.plan, library=folder / LIBRARY)


def take_sample(name: str, folder: Path, store: Store) -> tuple[PlannedStack, Sample]:
    """Arrange the particles of a stack and keep the sample."""
    planned = kept_plan(name, store)
    with assembling(planned.plan, library=folder / LIBRARY) as sample_of:
        sample = sample_of(planned.number)
    store.write_bytes(layout.simulated(name, SAMPLE), encode_sample(sample))
    return planned, sample


def take_stack(
    name: str,
    folder: Path,
    store: Store,
    *,
    backend: Backend,
    progress: Progress | None = None,
) -> tuple[MadeStack, tuple[Check, ...]]:
    """Make the images of a stack; tilts that an earlier try has made are kept.

    One of an earlier plan of this name is replaced.
    """
    planned = kept_plan(name, store)
    made = simulate_stack(
        planned.plan,
        planned.number,
        folder,
        sample_of=lambda _: kept_sample(name, store),
        backend=backend,
        progress=progress,
        overwrite=True,
    )
    truth = read_truth(folder / name)
    checks = (check_files(made.folder, truth), check_counts(made.folder, truth))
    return made, checks


def judge_truth(
    name: str, folder: Path, store: Store
) -> tuple[Truth, tuple[Check, ...]]:
    """The truth of a stack, and whether its images agree with it."""
    truth, stack = read_truth(folder / name), folder / name
    sample = kept_sample(name, store)
    checks = (check_rings(stack, truth), check_projections(stack, truth, sample))
    return truth, checks


def take_record(
    name: str,
    folder: Path,
    store: Store,
    *,
    settings: Settings,
    checks: Iterable[Check] = (),
    preview: str = "",
    dagster: DagsterProvenance | None = None,
) -> Recorded:
    """Write the images as an OME-Zarr with a pyramid, and the catalog's record."""
    truth, stack = read_truth(folder / name), folder / name
    pixel_nm = truth.plan.pixel_nm
    written = convert(
        str(stack_file(stack, name)),
        store.url(layout.volume(SOURCE, name)),
        settings=settings.ingest.output,
        # z counts tilts: it has no length, the schema wants one
        voxel_nm=(pixel_nm, pixel_nm, pixel_nm),
        overwrite=True,
    )
    record = record_of_volume(
        SOURCE,
        name,
        written,
        core=_core(truth),
        created_at=first_recorded(store, layout.record(SOURCE, name)),
        checks=checks,
        preview=preview,
        additional=_additional(truth, stack),
    )
    provenance = record.metadata.provenance.model_copy(update={"dagster": dagster})
    metadata = record.metadata.model_copy(update={"provenance": provenance})
    files = record.files.model_copy(update={"raw": str(stack)})
    record = record.model_copy(update={"metadata": metadata, "files": files})
    record = as_first_made(record, store, layout.record(SOURCE, name))
    write_record(store, layout.record(SOURCE, name), record)
    return Recorded(record=record, written=written)


def take_exports(name: str, folder: Path) -> dict[str, Path]:
    """The stack as a project of each program that is known, by the program's name."""
    target = folder / EXPORTED / name
    return {kind: export(kind, [folder / name], target / kind) for kind in EXPORTS}


def kept_plan(name: str, store: Store) -> PlannedStack:
    """The plan that `take_plan` has kept."""
    return store.read(layout.simulated(name, PLAN), PlannedStack)


def kept_sample(name: str, store: Store) -> Sample:
    """The sample that `take_sample` has kept.

    Raises
    ------
    FormatError
        It is damaged.
    """
    kept = layout.simulated(name, SAMPLE)
    return decode_sample(store.read_bytes(kept), source=store.url(kept))


def _core(truth: Truth) -> CoreMetadata:
    plan, first, last = truth.plan, truth.tilts[0], truth.tilts[-1]
    counts = particle_counts(truth)
    sample = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return CoreMetadata(
        dataset_title=f"Simulated tilt series {truth.stack}",
        description=(
            f"Simulated tilt series of {len(truth.tilts)} images from "
            f"{first.nominal_deg:g} to {last.nominal_deg:g} degrees, "
            f"{plan.pixel_nm:g} nm a pixel, by {truth.backend}; the truth is known."
        ),
        modality="cryo-ET",
        sample=sample or "ice",
    )


def particle_counts(truth: Truth) -> dict[str, int]:
    """Kind -> how many of it lie in the ice; beads last."""
    counts: dict[str, int] = {}
    for each in truth.particles:
        counts[each.name] = counts.get(each.name, 0) + 1
    if truth.fiducials:
        counts["beads"] = len(truth.fiducials)
    return counts


def _additional(truth: Truth, stack: Path) -> dict[str, JsonValue]:
    plan: JsonValue = json.loads(truth.plan.model_dump_json())
    return {"folder": str(stack), "plan": plan, "tilts": len(truth.tilts)}
