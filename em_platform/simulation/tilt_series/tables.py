"""What is written beside the images of a stack: angles, mdoc, poses, records."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from em_platform.formats.mdoc import MdocTilt, tilt_mdoc
from em_platform.formats.mrc_stack import SectionMark
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.image_files import Marks, frames_name
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.poses import write_poses
from em_platform.simulation.tilt_series.truth import TRUTH, Truth
from em_platform.storage.atomic import write_bytes

RECORDS = "sim_metadata.json"
"""Of each stack, and of all of them beside their folders; ETSimulations' name."""

_FIRST_IMAGE = datetime(2020, 1, 1)
"""A date of the clock would make other bytes each time."""
_BETWEEN_IMAGES = timedelta(seconds=20)
_EXPOSURE_S = 1.0


def write_tables(
    folder: Path,
    plan: Plan,
    *,
    truth: Truth,
    tilts: Sequence[Tilt],
    marks: Sequence[Marks],
) -> None:
    """Write truth, angles, mdoc, poses and the record of one stack."""
    name = truth.stack
    (folder / TRUTH).write_text(truth.text())
    lines = [f"{tilt.nominal_deg:8.3f}" for tilt in tilts]
    (folder / f"{name}.rawtlt").write_text("\n".join([*lines, ""]))
    camera = plan.camera
    mdoc = tilt_mdoc(
        [
            _mdoc_of(plan, truth, tilt, mark.noisy)
            for tilt, mark in zip(tilts, marks, strict=True)
        ],
        image_file=f"{name}.mrc",
        size_px=(camera.width_px, camera.height_px),
        pixel_nm=plan.pixel_nm,
        voltage_kv=plan.beam.voltage_kv,
    )
    (folder / f"{name}.mrc.mdoc").write_text(mdoc)
    write_poses(folder, truth.particles, plan=plan, stack=name)
    (folder / RECORDS).write_text(_text([record_of(truth)]))


def record_of(truth: Truth) -> dict[str, Any]:
    """A stack as ETSimulations records it: lengths in nm, ZXZ angles in degrees.

    Files are named from the folder of the record. An assembler's `facts` win: they have
    what a picker with errors would have noted.
    """
    plan = truth.plan
    positions = [list(each.position_nm) for each in truth.particles]
    targets = plan.objective.defocus_um
    return {
        "output": f"{truth.stack}.mrc",
        "nonoise_output": f"{truth.stack}_clean.mrc",
        "global_stack_no": truth.number,
        "apix": plan.pixel_nm,
        "defocus": targets[truth.number % len(targets)],
        "sim_configs": plan.model_dump(mode="json"),
        "particle_coords": [[x / plan.pixel_nm for x in each] for each in positions],
        "positions": positions,
        "orientations": [list(each.euler_zxz_deg) for each in truth.particles],
        "custom_data": {},
        **truth.facts,
    }


def write_records(output: Path) -> None:
    """Gather the records of all stacks that are done, by their names."""
    found = []
    for path in sorted(output.glob(f"[!.]*/{RECORDS}")):
        for record in json.loads(path.read_bytes()):
            for name in ("output", "nonoise_output"):
                record[name] = f"{path.parent.name}/{record[name]}"
            found.append(record)
    write_bytes(output / RECORDS, _text(found).encode())


def _text(records: list[dict[str, Any]]) -> str:
    return json.dumps(records, indent=1) + "\n"


def _mdoc_of(plan: Plan, truth: Truth, tilt: Tilt, mark: SectionMark) -> MdocTilt:
    """As a microscope would know it: nominal angles, no errors of the stage."""
    targets = plan.objective.defocus_um
    pixels = plan.camera.height_px * plan.camera.width_px
    return MdocTilt(
        tilt_deg=tilt.nominal_deg,
        stage_um=(0.0, 0.0),
        dose_e_per_nm2=tilt.dose_per_nm2,
        prior_dose_e_per_nm2=tilt.prior_dose_per_nm2,
        underfocus_nm=(tilt.defocus.u_nm + tilt.defocus.v_nm) / 2,
        target_underfocus_nm=1000 * targets[truth.number % len(targets)],
        axis_deg=plan.tilts.axis_deg,
        image_shift_um=(0.0, 0.0),
        exposure_s=_EXPOSURE_S,
        taken_at=_FIRST_IMAGE + tilt.order * _BETWEEN_IMAGES,
        least_largest_mean=(mark.least, mark.largest, mark.total / pixels),
        frames=frames_name(plan, truth.stack, tilt),
        frame_count=plan.camera.frames,
    )
