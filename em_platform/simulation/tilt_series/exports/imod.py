"""A project for IMOD's etomo and batchruntomo, a folder for each stack.

Formats: IMOD's man pages of `batchruntomo` (directives), `newstack` (.xf), `tilt`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from em_platform.simulation.tilt_series.exports.finished import AlignedTilt, Finished
from em_platform.simulation.tilt_series.exports.project import Entry, Link, lines

_UNMOVED = f"{1:12.7f}{0:12.7f}{0:12.7f}{1:12.7f}{0:12.3f}{0:12.3f}"


def imod(stacks: Sequence[Finished], target: Path) -> dict[str, Entry]:
    """The nominal angles and directives, and the true alignment beside them.

    `.prexf` and `.prexg` leave the images as they are. `.tlt`, `.xtilt` and `.xf` are
    the truth, so that steps after the alignment can be run without one.
    """
    found: dict[str, Entry] = {}
    for each in stacks:
        begin = f"{each.name}/{each.name}"
        tilts = each.tilts()
        unmoved = lines([_UNMOVED] * len(tilts))
        found |= {
            f"{begin}.mrc": Link(each.stack_file),
            f"{begin}.rawtlt": lines(
                [f"{tilt.nominal_deg:8.2f}" for tilt in each.truth.tilts]
            ),
            f"{begin}.prexf": unmoved,
            f"{begin}.prexg": unmoved,
            f"{begin}.adoc": _directives(each),
            f"{begin}.tlt": lines([f"{tilt.y_deg:8.3f}" for tilt in tilts]),
            f"{begin}.xtilt": lines([f"{tilt.x_deg:8.3f}" for tilt in tilts]),
            f"{begin}.xf": lines([transform(tilt, each) for tilt in tilts]),
        }
    return found


def transform(tilt: AlignedTilt, finished: Finished) -> str:
    """A line of an .xf: what turns the tilt axis upright and centres the specimen."""
    angle = np.deg2rad(-tilt.z_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    camera = finished.truth.plan.camera
    # IMOD's middle of an even side lies between two pixels, ours on n // 2.
    half = [(1 - size % 2) / 2 for size in (camera.width_px, camera.height_px)]
    shift = -turn @ (np.asarray(tilt.shift_px) + half) + half
    rows = "".join(f"{value:12.7f}" for value in turn.ravel().tolist())
    return rows + "".join(f"{value:12.3f}" for value in shift.tolist())


def _directives(each: Finished) -> str:
    plan = each.truth.plan
    defocus_nm = np.mean([tilt.defocus_nm for tilt in each.truth.tilts])
    values = {
        "setupset.copyarg.name": each.name,
        "setupset.copyarg.dual": 0,
        "setupset.copyarg.pixel": f"{plan.pixel_nm:g}",
        "setupset.copyarg.gold": f"{plan.beads.diameter_nm:g}",
        "setupset.copyarg.rotation": f"{plan.tilts.axis_deg - 90:g}",
        "setupset.copyarg.userawtlt": 1,
        "setupset.copyarg.extract": 0,
        "setupset.copyarg.voltage": f"{plan.beam.voltage_kv:g}",
        "setupset.copyarg.Cs": f"{plan.objective.spherical_mm:g}",
        "setupset.copyarg.defocus": f"{defocus_nm:.0f}",
        "setupset.scanHeader": 0,
        "comparam.prenewst.newstack.BinByFactor": 1,
        "comparam.autofidseed.autofidseed.TargetNumberOfBeads": plan.beads.count,
        "runtime.AlignedStack.any.binByFactor": 1,
        "runtime.Positioning.any.thickness": each.size_px[2],
        "comparam.tilt.tilt.THICKNESS": each.size_px[2],
    }
    return lines([f"{name} = {value}" for name, value in values.items()])
