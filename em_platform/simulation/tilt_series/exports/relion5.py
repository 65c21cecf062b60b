"""A RELION 5 project for subtomograms: tilt series, particles, optimisation set.

Conventions: RELION 5's `tomogram_set` and `Reference/Conventions` of its documents.
A place comes to an image by Rz(ZRot) Ry(YTilt) Rx(XTilt) and the shifts; defocus grows
along the beam (TomoHand 1); pre-exposure is the dose before a tilt, e/Å².
"""

from collections.abc import Sequence
from pathlib import Path

from em_platform.simulation.tilt_series.exports.finished import Finished
from em_platform.simulation.tilt_series.exports.project import (
    Entry,
    Row,
    relative,
    star,
)
from em_platform.simulation.tilt_series.poses import zyz_deg

_NM2_PER_A2 = 0.01
_A_PER_NM = 10
_GROUP = "opticsGroup1"


def relion5(stacks: Sequence[Finished], target: Path) -> dict[str, Entry]:
    """One project with all stacks; paths are from its folder, where RELION is run."""
    particles = [row for each in stacks for row in _particles(each)]
    sets = {
        "rlnTomoParticlesFile": "particles.star",
        "rlnTomoTomogramsFile": "tomograms.star",
    }
    found: dict[str, Entry] = {
        "tomograms.star": star({"global": [_tomogram(each) for each in stacks]}),
        "optimisation_set.star": star({"": [sets]}),
    }
    if particles:  # a table without rows is none
        optics = [_optics(stacks[0])]
        found["particles.star"] = star({"optics": optics, "particles": particles})
    for each in stacks:
        found[f"tilt_series/{each.name}.star"] = star({each.name: _tilts(each, target)})
    return found


def _tomogram(each: Finished) -> Row:
    plan = each.truth.plan
    x, y, z = each.size_px
    return {
        "rlnTomoName": each.name,
        "rlnTomoTiltSeriesStarFile": f"tilt_series/{each.name}.star",
        "rlnVoltage": plan.beam.voltage_kv,
        "rlnSphericalAberration": plan.objective.spherical_mm,
        "rlnAmplitudeContrast": plan.objective.amplitude_contrast,
        "rlnMicrographOriginalPixelSize": each.pixel_a,
        "rlnTomoHand": 1.0,
        "rlnOpticsGroupName": _GROUP,
        "rlnTomoTiltSeriesPixelSize": each.pixel_a,
        "rlnTomoTomogramBinning": 1.0,
        "rlnTomoSizeX": x,
        "rlnTomoSizeY": y,
        "rlnTomoSizeZ": z,
    }


def _tilts(each: Finished, target: Path) -> list[Row]:
    plan = each.truth.plan
    file = relative(each.stack_file, target)
    rows: list[Row] = []
    for truth, tilt in zip(each.truth.tilts, each.tilts(), strict=True):
        rows.append(
            {
                "rlnMicrographName": f"{truth.section + 1}@{file}",
                "rlnTomoTiltMovieFrameCount": plan.camera.frames,
                "rlnTomoNominalStageTiltAngle": truth.nominal_deg,
                "rlnTomoNominalTiltAxisAngle": plan.tilts.axis_deg - 90,
                "rlnMicrographPreExposure": truth.prior_dose_e_per_nm2 * _NM2_PER_A2,
                # Negative under focus, in µm; the defoci below are positive, in Å.
                "rlnTomoNominalDefocus": -sum(truth.defocus_nm) / 2000,
                "rlnDefocusU": truth.defocus_nm[0] * _A_PER_NM,
                "rlnDefocusV": truth.defocus_nm[1] * _A_PER_NM,
                "rlnDefocusAngle": truth.azimuth_deg,
                "rlnTomoXTilt": tilt.x_deg,
                "rlnTomoYTilt": tilt.y_deg,
                "rlnTomoZRot": tilt.z_deg,
                "rlnTomoXShiftAngst": tilt.shift_px[0] * each.pixel_a,
                "rlnTomoYShiftAngst": tilt.shift_px[1] * each.pixel_a,
                "rlnCtfScalefactor": 1.0,
            }
        )
    return rows


def _optics(each: Finished) -> Row:
    plan = each.truth.plan
    return {
        "rlnOpticsGroup": 1,
        "rlnOpticsGroupName": _GROUP,
        "rlnVoltage": plan.beam.voltage_kv,
        "rlnSphericalAberration": plan.objective.spherical_mm,
        "rlnAmplitudeContrast": plan.objective.amplitude_contrast,
        "rlnTomoTiltSeriesPixelSize": each.pixel_a,
    }


def _particles(each: Finished) -> list[Row]:
    rows: list[Row] = []
    for number, particle in enumerate(each.particles(), 1):
        x, y, z = (each.pixel_a * value for value in particle.place_px)
        rot, tilt, psi = zyz_deg(particle.turn.inv()).tolist()
        rows.append(
            {
                "rlnTomoName": each.name,
                "rlnTomoParticleName": f"{each.name}/{number}",
                "rlnCenteredCoordinateXAngst": x,
                "rlnCenteredCoordinateYAngst": y,
                "rlnCenteredCoordinateZAngst": z,
                "rlnAngleRot": rot,
                "rlnAngleTilt": tilt,
                "rlnAnglePsi": psi,
                "rlnOpticsGroup": 1,
                "emName": particle.name,
            }
        )
    return rows
