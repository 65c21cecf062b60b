"""The cases of the benchmark of tilt series, for our simulator and TEM-simulator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from benchmarks.rings import ring_correlation
from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.backends.tem_simulator import (
    components,
    tilt_tables,
    write_sample,
)
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.particles import ICE_V
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.plan_file import plan_of
from em_platform.simulation.tilt_series.scattering import differential, ice_of
from em_platform.simulation.tilt_series.series import path_of, tilts_of
from em_platform.simulation.tilt_series.tem_config import text_of

_VOXELS = 2.5  # of the map in a pixel of the image: 67^3 at 0.2 nm for 0.5 nm
_BLUR = 1.6  # voxels: TEM-simulator blurs its own maps so (B = 200 voxel^2)


def cage(voxel_nm: float) -> NDArray[np.float32]:
    """A ball-shaped protein cage, V above ice: 2000 soft balls in a shell of 12 nm."""
    side = int(13.4 / voxel_nm)
    reach = int(np.ceil(4 * _BLUR))
    rng = np.random.default_rng(5)
    points = rng.standard_normal((2000, 3))
    points *= (rng.uniform(3.6, 5.8, 2000) / np.linalg.norm(points, axis=1))[:, None]
    grid = np.indices((side,) * 3) - side // 2
    found = np.zeros((side,) * 3, np.float32)
    for point in points / voxel_nm:
        corner = np.floor(point).astype(int) + side // 2 - reach
        window = tuple(slice(max(c, 0), c + 2 * reach + 1) for c in corner)
        square = sum((grid[a][window] - point[a]) ** 2 for a in range(3))
        found[window] += np.exp(-square / (2 * _BLUR**2))
    found *= 8 / found.max()
    return np.where(found > 0.05, found, 0).astype(np.float32)


def plan_for(
    folder: Path,
    *,
    side_px: int,
    pixel_nm: float,
    particles: int,
    tilts: int = 41,
) -> Plan:
    """The case of both programs: no errors, no grain, no radiation damage."""
    voxel_nm = pixel_nm / _VOXELS
    scheme = {"first_deg": -60, "step_deg": 120 / (tilts - 1), "tilts": tilts}
    with mrcfile.new(folder / "cage.mrc", cage(voxel_nm) + np.float32(ICE_V)) as file:
        file.voxel_size = 10 * voxel_nm
    return plan_of(
        {
            "name": "case",
            "seed": 1,
            "pixel_nm": pixel_nm,
            "mode": "multislice",
            "tilts": {**scheme, "order": "linear"},
            "beam": {
                "energy_spread_ev": 1.3 / np.sqrt(2),
                "convergence_mrad": 0.1,
                "dose_per_tilt_e_per_nm2": 300,
                "energy_filter": False,
            },
            "objective": {
                "defocus_um": [3.0],
                "spherical_mm": 2,
                "chromatic_mm": 2,
                "aperture_mrad": 25 / 3,
                "amplitude_contrast": 0,
            },
            "camera": {
                "width_px": side_px,
                "height_px": side_px,
                "gain": 10,
                "dqe": 0.4,
                "mtf_a": 0.7,
                "mtf_b": 0.2,
                "mtf_c": 0.1,
                "mtf_alpha": 10,
                "mtf_beta": 40,
            },
            "ice": {
                "thickness_nm": 150,
                "hole_nm": 4000,
                "grain": False,
                "inelastic_nm": 0,
                "density_g_per_cm3": 1.002,  # 33.5 molecules in a nm^3
            },
            "errors": {"radiation_damage": False},
            # What TEM-simulator does not write.
            "outputs": {"label_pixels": 0, "previews": False},
            "particles": [{"name": "cage", "file": str(folder / "cage.mrc")}],
            "assembly": {"options": {"counts": {"cage": particles}}},
        },
        source="the benchmark",
    )


def tem_simulator_input(plan: Plan, sample: Sample, folder: Path) -> Path:
    """The same case for TEM-simulator, as one run of all tilts."""
    write_sample(folder, sample)
    tilts = tilts_of(plan, 0)
    tables = [tilt_tables(plan, tilt) for tilt in tilts]
    for name, text in tables[0].items():
        columns = text.split()[1]
        rows = [each[name].splitlines()[1] for each in tables]
        (folder / name).write_text("\n".join([f"{len(rows)} {columns}", *rows, ""]))
    found = [
        replace(each, values={**each.values, "ntilts": len(tilts)})
        if each.kind == "geometry"
        else each
        for each in components(plan, 0, tilts[0], sample=sample, folder=folder)
    ]
    path = folder / "input.txt"
    path.write_text(text_of(found))
    return path


def count_ratio(plan: Plan, tilt: Tilt) -> float:
    """Our mean counts over those of TEM-simulator, by its sum over scattering angles.

    It adds up what the aperture lets pass in steps of pixel / (pi (defocus + 1 µm)) and
    begins with the first step: the narrower angles, where inelastic scattering is
    strongest, count as lost. So its counts depend on pixel and defocus.
    """
    step = plan.pixel_nm / (np.pi * (1000 * max(plan.objective.defocus_um) + 1000))
    aperture = 1e-3 * plan.objective.aperture_mrad
    angle = np.arange(step, aperture, step)
    fine = np.geomspace(1e-7, aperture, 3000)
    ice, voltage_v = ice_of(plan.ice.density_g_per_cm3), 1000 * plan.beam.voltage_kv
    few, many = (
        2 * np.pi * each * sum(differential(ice, each, voltage_v=voltage_v))
        for each in (angle, fine)
    )
    lost = float(np.trapezoid(many, fine) - few.sum() * step)
    path_nm = float(path_of(plan, tilt).mean())
    return float(np.exp(path_nm * lost))


def ring_correlations(
    one: NDArray[Any], two: NDArray[Any], *, rings: int = 16
) -> tuple[list[float], list[float]]:
    """Fourier ring correlation up to half of Nyquist, and the gain of two over one.

    Of all but a soft border of 32 pixels, where TEM-simulator cuts particles off.
    """
    inside = [np.minimum(np.arange(n), np.arange(n)[::-1]) for n in one.shape]
    soft = [0.5 - 0.5 * np.cos(np.pi * np.clip(each / 32, 0, 1)) for each in inside]
    window = soft[0][:, None] * soft[1][None, :]
    a, b = (np.fft.rfft2((each - each.mean()) * window) for each in (one, two))
    v = np.fft.fftfreq(one.shape[0])[:, None]
    u = np.fft.rfftfreq(one.shape[1])[None, :]
    ring = np.hypot(v, u) / 0.25 * rings
    found, gains = ring_correlation(a, b, ring, rings=rings)
    return found.tolist(), gains.tolist()
