"""What a person wants to know of each step of a simulation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from em_platform.assets.metadata import Metadata, picture_file, short, table
from em_platform.storage import Store, layout

if TYPE_CHECKING:
    from em_platform.simulation.tilt_series.assemblers.assembler import (
        DensityMap,
        Sample,
    )
    from em_platform.simulation.tilt_series.stack import MadeStack
    from em_platform.simulation.tilt_series.steps import PlannedStack
    from em_platform.simulation.tilt_series.truth import Truth


def plan_summary(planned: "PlannedStack") -> Metadata:
    """What is to be made."""
    plan = planned.plan
    last = plan.tilts.first_deg + (plan.tilts.tilts - 1) * plan.tilts.step_deg
    return {
        "tilts": f"{plan.tilts.tilts}, {plan.tilts.first_deg:g} to {last:g} degrees",
        "image (px)": f"{plan.camera.width_px} x {plan.camera.height_px}",
        "pixel (nm)": short(plan.pixel_nm),
        "dose a tilt (e/nm2)": short(plan.beam.dose_per_tilt_e_per_nm2),
        "particles": ", ".join(kind.name for kind in plan.particles) or "none",
        "assembler": plan.assembly.kind,
        "seed": plan.seed,
        "stack": planned.number,
        "plan's digest": planned.digest[:12],
        "plan": dg.MetadataValue.json(plan.model_dump(mode="json")),
    }


def library_summary(maps: Sequence["DensityMap"], folder: Path) -> Metadata:
    """Each map: how large, how fine, how strong."""
    rows = [
        (
            each.name,
            " x ".join(map(str, each.potential_v.shape)),
            short(each.voxel_nm),
            short(2 * each.radius_nm),
            short(float(each.potential_v.max())),
        )
        for each in maps
    ]
    columns = ("particle", "voxels (z, y, x)", "voxel (nm)", "width (nm)", "most (V)")
    return {
        "maps": table(columns, rows) if rows else "none",
        "folder": dg.MetadataValue.path(str(folder / "library")),
    }


def sample_summary(planned: "PlannedStack", sample: "Sample", store: Store) -> Metadata:
    """How many particles of each kind, and where they lie."""
    from em_platform.simulation.tilt_series.pictures import sample_slice

    counts: dict[str, int] = {}
    for particle in sample.particles:
        name = sample.maps[particle.template].name
        counts[name] = counts.get(name, 0) + 1
    return {
        **picture_file(
            "sample from above and from the side",
            sample_slice(planned.plan, sample),
            shows="sample",
            store=store,
            name=layout.simulated(planned.name, "sample.png"),
        ),
        "particles": table(("kind", "how many"), list(counts.items())),
        "in all": len(sample.particles),
    }


def stack_summary(made: "MadeStack", store: Store) -> Metadata:
    """How much was made now, and the tilt in the middle with its spectrum."""
    from em_platform.simulation.tilt_series import pictures
    from em_platform.simulation.tilt_series.truth import read_truth

    truth = read_truth(made.folder)
    return {
        **picture_file(
            "central tilt",
            pictures.central_tilt(made.folder, truth),
            shows="central tilt",
            store=store,
            name=layout.simulated(made.name, "central_tilt.png"),
        ),
        **picture_file(
            "power spectrum beside the expected rings",
            pictures.thon_rings(made.folder, truth),
            shows="Thon rings",
            store=store,
            name=layout.simulated(made.name, "thon_rings.png"),
        ),
        "tilts": made.tilts,
        "tilts made now": made.made,
        "folder": dg.MetadataValue.path(str(made.folder)),
    }


def truth_summary(truth: "Truth", folder: Path, store: Store) -> Metadata:
    """The errors of the stage, and the particles drawn into the image."""
    from em_platform.simulation.tilt_series import pictures, steps

    rows = [
        (
            tilt.nominal_deg,
            short(tilt.tilt_deg),
            tilt.order,
            short(sum(tilt.defocus_nm) / 2),
            short(tilt.dose_e_per_nm2),
            short(tilt.shift_nm[0]),
            short(tilt.shift_nm[1]),
        )
        for tilt in truth.tilts
    ]
    columns = (
        "nominal (degrees)", "tilt (degrees)", "taken as", "defocus (nm)",
        "dose (e/nm2)", "shift y (nm)", "shift x (nm)",
    )  # fmt: skip
    return {
        **picture_file(
            "particles (green) and beads (orange) in the central tilt",
            pictures.truth_overlay(folder / truth.stack, truth),
            shows="truth",
            store=store,
            name=layout.simulated(truth.stack, "truth.png"),
        ),
        "particles": table(
            ("kind", "how many"), list(steps.particle_counts(truth).items())
        ),
        "tilts": table(columns, rows),
        "truth": dg.MetadataValue.path(str(folder / truth.stack / "truth.json")),
    }
