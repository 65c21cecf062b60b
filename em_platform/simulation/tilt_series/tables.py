"""What is written beside the images of a stack: angles, mdoc, poses, records."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from em_platform.formats.mrc_stack import SectionMark
from em_platform.model import JsonObject
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
    mdoc = _mdoc(plan, truth, tilts, [mark.noisy for mark in marks])
    (folder / f"{name}.mrc.mdoc").write_text(mdoc)
    write_poses(folder, truth.particles, plan=plan, stack=name)
    (folder / RECORDS).write_text(_text([record_of(truth)]))


def record_of(truth: Truth) -> JsonObject:
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


def _text(records: list[JsonObject]) -> str:
    return json.dumps(records, indent=1) + "\n"


def _mdoc(
    plan: Plan, truth: Truth, tilts: Sequence[Tilt], marks: Sequence[SectionMark]
) -> str:
    """SerialEM's metadata; the title counts the tilt axis from the image's y axis."""
    camera = plan.camera
    axis = plan.tilts.axis_deg - 90
    lines = [
        "DataMode = 2",
        f"ImageSize = {camera.width_px} {camera.height_px}",
        f"ImageFile = {truth.stack}.mrc",
        f"PixelSpacing = {10 * plan.pixel_nm:.6g}",
        f"Voltage = {plan.beam.voltage_kv:g}",
        "",
        f"[T =     Tilt axis angle = {axis:.2f}, binning = 1  spot = 1  camera = 0]",
    ]
    for index, (tilt, mark) in enumerate(zip(tilts, marks, strict=True)):
        values = _mdoc_values(plan, truth, tilt, mark)
        lines += ["", f"[ZValue = {index}]"]
        lines += [f"{key} = {value}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def _mdoc_values(
    plan: Plan, truth: Truth, tilt: Tilt, mark: SectionMark
) -> dict[str, str]:
    """One image as a microscope would know it: nominal angles, no errors of the stage.

    SerialEM counts underfocus as negative, and doses in e/A^2.
    """
    targets = plan.objective.defocus_um
    underfocus_nm = (tilt.defocus.u_nm + tilt.defocus.v_nm) / 2
    taken_at = _FIRST_IMAGE + tilt.order * _BETWEEN_IMAGES
    mean = mark.total / (plan.camera.height_px * plan.camera.width_px)
    values = {
        "TiltAngle": f"{tilt.nominal_deg:.4f}",
        "StagePosition": "0.00000 0.00000",
        "PixelSpacing": f"{10 * plan.pixel_nm:.6g}",
        "ExposureDose": f"{tilt.dose_per_nm2 / 100:.5f}",
        "PriorRecordDose": f"{tilt.prior_dose_per_nm2 / 100:.5f}",
        "Defocus": f"{-underfocus_nm / 1000:.5f}",
        "TargetDefocus": f"{-targets[truth.number % len(targets)]:.5f}",
        "RotationAngle": f"{plan.tilts.axis_deg:.2f}",
        "ImageShift": "0.000000 0.000000",
        "ExposureTime": f"{_EXPOSURE_S:.4f}",
        "DateTime": f"{taken_at:%d-%b-%Y  %H:%M:%S}",
        "MinMaxMean": f"{mark.least:.6g} {mark.largest:.6g} {mean:.6g}",
    }
    frames = frames_name(plan, truth.stack, tilt)
    if frames:
        values["SubFramePath"] = frames
        values["NumSubFrames"] = str(plan.camera.frames)
    return values
