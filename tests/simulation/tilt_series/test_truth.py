"""Truth is true: what the files state is found again in the images, by other ways."""

import json
from pathlib import Path

import mrcfile
import numpy as np
import pyarrow.parquet as pq
import pytest
import starfile
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from em_platform.simulation.tilt_series.backends.embedded import Embedded
from em_platform.simulation.tilt_series.data_set import simulate
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.truth import (
    TiltTruth,
    Truth,
    truth_schema,
    zxz_deg,
)


def changed(plan: Plan, **parts: dict[str, object]) -> Plan:
    """The plan with other fields in some of its parts."""
    update = {
        name: getattr(plan, name).model_copy(update=fields)
        for name, fields in parts.items()
    }
    return plan.model_copy(update=update)


def made(plan: Plan, output: Path) -> tuple[Truth, Path]:
    (stack,) = simulate(plan, output, backend=Embedded())
    text = (stack.folder / "truth.json").read_text()
    return Truth.model_validate_json(text), stack.folder


def reprojected(truth: Truth, tilt: TiltTruth) -> NDArray[np.float64]:
    """What a weak phase object of these poses looks like, by real space and textbook.

    Lengths in nm, the optic axis last in `(x, y, z)`; no code of the simulator.
    """
    camera, pixel = truth.plan.camera, truth.plan.pixel_nm
    shape = camera.height_px, camera.width_px
    turn = Rotation.from_euler(
        "ZXZ", [tilt.axis_deg, tilt.tilt_deg, -tilt.axis_deg], degrees=True
    )
    with mrcfile.open(truth.plan.particles[0].file) as file:
        volume = np.asarray(file.data, float)
        voxel = float(file.voxel_size.x) / 10
    phase = np.zeros(shape)
    for each in truth.particles:
        x, y, _ = turn.apply(each.position_nm)
        pose = turn * Rotation.from_quat(each.quaternion_xyzw)
        back = pose.inv().as_matrix()[::-1, ::-1] * (pixel / voxel)
        place = np.array([0, y + tilt.shift_nm[0], x + tilt.shift_nm[1]]) / pixel
        middle = np.array([10, shape[0] // 2, shape[1] // 2])
        offset = np.array(volume.shape) // 2 - back @ (middle + place)
        phase += affine_transform(volume, back, offset, (20, *shape)).sum(axis=0)
    q = np.hypot(
        np.fft.fftfreq(shape[0], pixel)[:, None], np.fft.rfftfreq(shape[1], pixel)
    )
    wave = 0.0019687
    chi = np.pi * wave * np.mean(tilt.defocus_nm) * q**2
    chi -= np.pi / 2 * 2.7e6 * wave**3 * q**4
    return np.fft.irfft2(-np.fft.rfft2(phase) * np.sin(chi + np.arcsin(0.07)), s=shape)


def test_reprojected_truth_is_the_clean_image_at_every_tilt(
    plan: Plan, tmp_path: Path
) -> None:
    wide = changed(
        plan, tilts={"first_deg": -60, "step_deg": 15, "tilts": 9},
        beads={"count": 0}, ice={"grain": False}, errors={"radiation_damage": False},
    )  # fmt: skip
    truth, folder = made(wide, tmp_path / "out")
    assert any(abs(tilt.shift_nm[0]) > 1 for tilt in truth.tilts)
    with mrcfile.open(folder / "small-0000_clean.mrc") as file:
        for tilt in truth.tilts:
            expected = reprojected(truth, tilt)
            found = np.corrcoef(file.data[tilt.section].ravel(), expected.ravel())
            assert found[0, 1] >= 0.9, tilt
            # The same with the error of the stage left out would not do.
            assert abs(tilt.tilt_deg - tilt.nominal_deg) > 1e-3


def test_the_poses_of_the_tables_are_those_of_the_truth(
    plan: Plan, tmp_path: Path
) -> None:
    truth, folder = made(plan, tmp_path / "out")
    star = starfile.read(folder / "particles.star")
    table = pq.read_table(folder / "particles.parquet").to_pylist()
    for number, each in enumerate(truth.particles):
        turn = Rotation.from_quat(each.quaternion_xyzw)
        row = star.iloc[number]
        relion = Rotation.from_euler(
            "ZYZ", [row[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")],
            degrees=True,
        )  # fmt: skip
        # RELION turns the specimen's axes to the particle's.
        assert (relion * turn).magnitude() < 1e-6
        zxz = Rotation.from_euler("zxz", each.euler_zxz_deg, degrees=True)
        assert (zxz.inv() * turn).magnitude() < 1e-6
        assert [table[number][f"{a}_nm"] for a in "xyz"] == list(each.position_nm)


@pytest.mark.parametrize("angles", [(30, 0, 40), (30, 180, 40), (10, 50, 170)])
def test_euler_angles_are_right_at_the_poles_too(angles: tuple[int, ...]) -> None:
    turn = Rotation.from_euler("zxz", angles, degrees=True)
    again = Rotation.from_euler("zxz", zxz_deg(turn), degrees=True)
    assert (again.inv() * turn).magnitude() < 1e-6


@pytest.mark.parametrize("hole_nm", [0.0, 90.0])
def test_mean_counts_are_dose_times_area_times_transmission(
    plan: Plan, tmp_path: Path, hole_nm: float
) -> None:
    sparse = changed(
        plan, beads={"count": 0}, objective={"aperture_mrad": 8.0},
        ice={"hole_nm": hole_nm}, beam={"dose_per_tilt_e_per_nm2": 3000.0},
    )  # fmt: skip
    truth, folder = made(sparse, tmp_path / "out")
    area = plan.pixel_nm**2 * plan.camera.gain
    with mrcfile.open(folder / "small-0000.mrc") as file:
        for tilt in truth.tilts:
            full = area * tilt.dose_e_per_nm2
            mean = file.data[tilt.section].mean(dtype=float)
            assert mean == pytest.approx(full * tilt.transmission, rel=0.01)
    assert truth.tilts[0].transmission < truth.tilts[2].transmission < 0.8


@pytest.mark.parametrize("set_um", [1.5, 4.0])
def test_thon_rings_are_those_of_the_set_defocus(
    plan: Plan, tmp_path: Path, set_um: float
) -> None:
    fields = plan.model_dump() | {"pixel_nm": 0.4, "particles": (), "assembly": {}}
    fields["assembly"] = {"kind": "crowded", "options": {"counts": {}}}
    empty = changed(
        Plan.model_validate(fields),
        tilts={"first_deg": 0, "tilts": 1}, beads={"count": 0},
        camera={"width_px": 256, "height_px": 256, "dqe": 1.0},
        objective={"defocus_um": (set_um,), "defocus_spread_um": 0.0},
        beam={"dose_per_tilt_e_per_nm2": 20_000.0, "dose_spread": 0.0},
    )  # fmt: skip
    _, folder = made(empty, tmp_path / "out")
    with mrcfile.open(folder / "small-0000.mrc") as file:
        # One tilt is an image and no stack, as the format has it.
        power = np.abs(np.fft.rfft2(file.data - file.data.mean())) ** 2
    assert fitted_defocus_nm(power, pixel_nm=0.4) == pytest.approx(
        1000 * set_um, rel=0.02
    )


def fitted_defocus_nm(power: NDArray[np.float64], *, pixel_nm: float) -> float:
    """The defocus whose squared sine is most like the rings, as CTFFIND fits them."""
    side = power.shape[0]
    q = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    ring = np.rint(q * 2 * side).astype(int).ravel()
    profile = np.bincount(ring, power.ravel()) / np.maximum(np.bincount(ring), 1)
    at = np.arange(len(profile)) / (2 * side) / pixel_nm
    use = (at > 0.25) & (at < 1.1)
    at, profile = at[use], profile[use]
    rings = profile / np.exp(np.polyval(np.polyfit(at, np.log(profile), 4), at))
    wave, best = 0.0019687, (-1.0, 0.0)
    for defocus in np.arange(500, 6000, 5.0):
        chi = np.pi * wave * defocus * at**2 - np.pi / 2 * 2.7e6 * wave**3 * at**4
        model = np.sin(chi + np.arcsin(0.07)) ** 2
        best = max(best, (float(np.corrcoef(model, rings)[0, 1]), float(defocus)))
    return best[1]


def test_the_schema_in_the_package_is_that_of_the_model() -> None:
    named = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    assert json.loads(truth_schema()) == named | Truth.model_json_schema()
