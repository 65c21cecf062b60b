"""Info files of an EMAN2 project.

Format: the JSON files of EMAN2's `info/` as e2tomogram.py reads them. EMAN2 turns the
axes and not the specimen, so its angles have the other sign than ours.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from em_platform.simulation.tilt_series.exports.finished import Finished, classes
from em_platform.simulation.tilt_series.exports.project import Entry, Link


def eman2(stacks: Sequence[Finished], target: Path) -> dict[str, Entry]:
    """Tilts, defoci and boxes of each stack; EMAN2 reads the linked MRC as well."""
    found: dict[str, Entry] = {}
    for each in stacks:
        file = f"tiltseries/{each.name}.mrc"
        found[file] = Link(each.stack_file)
        text = json.dumps(_info(each, file), indent=1) + "\n"
        found[f"info/{each.name}_info.json"] = text
    return found


def _info(each: Finished, file: str) -> dict[str, object]:
    plan = each.truth.plan
    kinds = {name: number - 1 for name, number in classes(each).items()}
    return {
        "apix_unbin": each.pixel_a,
        "tlt_file": file,
        "tlt_params": [
            [*tilt.shift_px, -tilt.z_deg, -tilt.y_deg, -tilt.x_deg]
            for tilt in each.tilts()
        ],
        "voltage": plan.beam.voltage_kv,
        "cs": plan.objective.spherical_mm,
        "defocus": [sum(tilt.defocus_nm) / 2000 for tilt in each.truth.tilts],
        "phase": [100 * plan.objective.amplitude_contrast for _ in each.truth.tilts],
        # From the middle of the tomogram, in pixels of the stack.
        "boxes_3d": [
            [*particle.place_px, "manual", 1.0, kinds[particle.name]]
            for particle in each.particles()
        ],
        "class_list": {
            str(number): {"name": name, "boxsize": 0} for name, number in kinds.items()
        },
    }
