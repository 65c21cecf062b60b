"""Poses of particles as tables: STAR for RELION and its kin, Parquet for the rest."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.truth import ParticleTruth

_A_PER_NM = 10


def star_text(particles: Sequence[ParticleTruth], *, plan: Plan, stack: str) -> str:
    """A RELION 5 table of particles, centred coordinates in Å.

    RELION's angles are intrinsic ZYZ from the specimen to the particle (Heymann et al.,
    J. Struct. Biol. 151, 196 (2005)), so those of the inverse rotation.
    """
    names = (
        "rlnTomoName",
        "rlnTomoParticleName",
        "rlnCenteredCoordinateXAngst",
        "rlnCenteredCoordinateYAngst",
        "rlnCenteredCoordinateZAngst",
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnAnglePsi",
        "emName",
    )
    lines = ["data_particles", "", "loop_"]
    lines += [f"_{name} #{number}" for number, name in enumerate(names, 1)]
    turns = Rotation.from_quat(
        np.array([each.quaternion_xyzw for each in particles]).reshape(-1, 4)
    )
    for number, (each, angles) in enumerate(
        zip(particles, zyz_deg(turns.inv()).tolist(), strict=True), 1
    ):
        numbers = [*(_A_PER_NM * p for p in each.position_nm), *angles]
        row = [stack, f"{stack}/{number}", *(f"{n:.6f}" for n in numbers), each.name]
        lines.append(" ".join(row))
    return "\n".join([*lines, "", ""])


def zyz_deg(turns: Rotation) -> NDArray[np.float64]:
    """Intrinsic ZYZ angles, deg, `(n, 3)`; where only a sum counts the third is 0."""
    angles = turns.as_euler("ZYZ", degrees=True, suppress_warnings=True)
    return np.asarray(angles, np.float64)


def parquet_bytes(particles: Sequence[ParticleTruth], *, stack: str) -> bytes:
    """A table with a row for each particle: name, place in nm, quaternion, angles."""
    columns = {
        "stack": pa.array([stack] * len(particles), pa.string()),
        "name": pa.array([each.name for each in particles], pa.string()),
    }
    for axis, name in enumerate("xyz"):
        values = [each.position_nm[axis] for each in particles]
        columns[f"{name}_nm"] = pa.array(values, pa.float64())
    for axis, name in enumerate("xyzw"):
        values = [each.quaternion_xyzw[axis] for each in particles]
        columns[f"q{name}"] = pa.array(values, pa.float64())
    for axis, name in enumerate(("phi", "theta", "psi")):
        values = [each.euler_zxz_deg[axis] for each in particles]
        columns[f"zxz_{name}_deg"] = pa.array(values, pa.float64())
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def write_poses(
    folder: Path, particles: Sequence[ParticleTruth], *, plan: Plan, stack: str
) -> None:
    """Write `particles.star` and `particles.parquet`."""
    (folder / "particles.star").write_text(star_text(particles, plan=plan, stack=stack))
    (folder / "particles.parquet").write_bytes(parquet_bytes(particles, stack=stack))
