"""What is true of a tilt series: every error, dose and pose that made its images."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from em_platform.errors import FormatError
from em_platform.model import Model
from em_platform.model.base import first_problem
from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.passing import transmission
from em_platform.simulation.tilt_series.plan import FIDUCIAL, Plan
from em_platform.simulation.tilt_series.series import drift_nm, loss_of, path_of

TRUTH = "truth.json"

_EVERY = 4  # pixels: the mean of the film's thickness needs no more

Triple = tuple[float, float, float]


class TiltTruth(Model):
    """One image, as stage and beam really were; sections by rising nominal angle."""

    section: int
    order: int
    """When it was taken: 0 is the first image."""
    nominal_deg: float
    tilt_deg: float
    axis_deg: float
    """Of the tilt axis from the image's x axis."""
    shift_nm: tuple[float, float]
    """`(y, x)` of the specimen's middle from pixel `(height // 2, width // 2)`."""
    dose_e_per_nm2: float
    prior_dose_e_per_nm2: float
    defocus_nm: tuple[float, float]
    """Along the azimuth and across; underfocus is positive."""
    azimuth_deg: float
    transmission: float
    """The share of the electrons that pass ice, carbon, aperture and energy filter:
    the mean count is dose times pixel area times gain times this."""
    drift_nm: tuple[tuple[float, float], ...] = ()
    """`(y, x)` of each frame of its movie, from the first."""


class ParticleTruth(Model):
    """One particle; the specimen's axes are x, y, z from its middle, z along the beam.

    Its rotation takes the axes of its map to those of the specimen.
    """

    name: str
    position_nm: Triple
    quaternion_xyzw: tuple[float, float, float, float]
    euler_zxz_deg: Triple
    """Extrinsic, as TEM-simulator and Dynamo count them."""


class FiducialTruth(Model):
    """One gold bead."""

    position_nm: Triple
    diameter_nm: float


class Truth(Model):
    """All that is true of one stack."""

    version: int = 1
    stack: str
    number: int
    backend: str
    plan: Plan
    """Without the number of stacks, which changes nothing in one of them."""
    files: dict[str, str]
    """SHA-256 of each particle's file, by the particle's name."""
    tilts: tuple[TiltTruth, ...]
    particles: tuple[ParticleTruth, ...]
    fiducials: tuple[FiducialTruth, ...]
    facts: dict[str, Any]
    """What the assembler knows besides."""

    def text(self) -> str:
        """As the file holds it."""
        return self.model_dump_json(indent=1) + "\n"


def read_truth(folder: Path) -> Truth:
    """What is true of the stack in that folder.

    Raises
    ------
    FormatError
        It has no truth that can be read.
    """
    path = folder / TRUTH
    try:
        return Truth.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else error
        raise FormatError(
            f"{path}: it cannot be read as the truth of a simulated stack ({why}), the "
            "file that `simulate` writes was expected; simulate it again"
        ) from error


def truth_schema() -> str:
    """The JSON schema of a truth file, as the package has it in a file."""
    return (files(__package__) / "truth.schema.json").read_text()


def particle_truth(sample: Sample) -> tuple[ParticleTruth, ...]:
    """The poses of all particles that are no beads, in the sample's order."""
    shown = [p for p in sample.particles if sample.maps[p.template].name != FIDUCIAL]
    turns = Rotation.from_matrix(
        np.array([p.rotation for p in shown]).reshape(-1, 3, 3)
    )
    return tuple(
        ParticleTruth(
            name=sample.maps[each.template].name,
            position_nm=each.position_nm,
            quaternion_xyzw=quaternion,
            euler_zxz_deg=angles,
        )
        for each, quaternion, angles in zip(
            shown, turns.as_quat().tolist(), zxz_deg(turns).tolist(), strict=True
        )
    )


def fiducial_truth(sample: Sample, plan: Plan) -> tuple[FiducialTruth, ...]:
    """The places of all beads."""
    return tuple(
        FiducialTruth(position_nm=each.position_nm, diameter_nm=plan.beads.diameter_nm)
        for each in sample.particles
        if sample.maps[each.template].name == FIDUCIAL
    )


def tilt_truth(
    tilts: Sequence[Tilt], *, plan: Plan, stack: int
) -> tuple[TiltTruth, ...]:
    """What is true of each section."""
    ice = loss_of(plan)
    has_movie = plan.camera.frames > 1
    return tuple(
        TiltTruth(
            section=tilt.index,
            order=tilt.order,
            nominal_deg=tilt.nominal_deg,
            tilt_deg=tilt.tilt_deg,
            axis_deg=tilt.axis_deg,
            shift_nm=tilt.shift_nm,
            dose_e_per_nm2=tilt.dose_per_nm2,
            prior_dose_e_per_nm2=tilt.prior_dose_per_nm2,
            defocus_nm=(tilt.defocus.u_nm, tilt.defocus.v_nm),
            azimuth_deg=float(np.rad2deg(tilt.defocus.azimuth_rad)),
            transmission=transmission(path_of(plan, tilt, every=_EVERY), ice),
            drift_nm=tuple((float(y), float(x)) for y, x in drift_nm(plan, stack, tilt))
            if has_movie
            else (),
        )
        for tilt in tilts
    )


def zxz_deg(turns: Rotation) -> NDArray[np.float64]:
    """Extrinsic ZXZ angles, deg, `(n, 3)`; where only a sum counts the third is 0."""
    angles = turns.as_euler("zxz", degrees=True, suppress_warnings=True)
    return np.asarray(angles, np.float64)
