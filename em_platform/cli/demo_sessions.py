"""Simulated sessions of cryo-EM, as a microscope would leave them, each with its truth.

Only here, and in tests, the simulation and the processing meet: the processing sees
movies, an mdoc and a file of truths, as of any session.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from em_platform.cli.demo_simulation import put_particle
from em_platform.cryoem.image_files import write_mrc
from em_platform.storage.guard import whole_folder

if TYPE_CHECKING:
    from em_platform.simulation.single_particles import ParticlePlan
    from em_platform.simulation.tilt_series.plan import Plan
    from em_platform.simulation.tilt_series.truth import Truth

_PARTICLE = "demo.mrc"
_SAMPLE = "sample.map"  # an `.mrc` would be taken for a movie
_VIEWS = "views.map"
_BIN = 4
_LAST_DEG = 48.0
_DEEP_A = 800.0  # somewhat more than the ice
_PLAN = {
    "name": "demo",
    "seed": 1,
    "pixel_nm": 0.4,
    # Ten times the usual dose: images of 256 pixels have little else to be fitted by.
    "beam": {"dose_per_tilt_e_per_nm2": 3000},
    "camera": {"width_px": 256, "height_px": 256, "frames": 4},
    "ice": {"thickness_nm": 60},
    "errors": {"shift_nm": 2, "drift_nm_per_frame": 0.4, "radiation_damage": False},
    "assembly": {"kind": "crowded", "options": {"counts": {"particle": 80}}},
    "beads": {"count": 10, "diameter_nm": 6},
    "outputs": {"label_pixels": 0, "previews": False},
}
_FRAMES, _DRIFT_PX = 4, 4.0


def demo_plan(folder: Path, *, tilts: int) -> "Plan":
    """The plan of a series of so many tilts; `folder` gets the particle it names."""
    from em_platform.simulation.tilt_series.plan import Plan

    folder.mkdir(parents=True, exist_ok=True)
    put_particle(folder / _PARTICLE)
    # Smaller than in the other demo: so many have room in so little ice.
    particle = {"file": str(folder / _PARTICLE), "name": "particle", "voxel_nm": 0.6}
    range_deg = {"first_deg": -_LAST_DEG, "step_deg": 2 * _LAST_DEG / (tilts - 1)}
    own = {"tilts": {**range_deg, "tilts": tilts, "axis_deg": 90}}
    return Plan.model_validate({**_PLAN, **own, "particles": [particle]})


def write_tilt_session(folder: Path, plan: "Plan", *, simulations: Path) -> None:
    """Make a session of a simulated tilt series: movies, mdoc, settings, truth.

    Parameters
    ----------
    folder
        Of the session; it comes as a whole.
    simulations
        Where the simulation keeps what it makes.
    """
    from em_platform.simulation.tilt_series.backends import backend_of
    from em_platform.simulation.tilt_series.data_set import LIBRARY, simulate
    from em_platform.simulation.tilt_series.sample import assembling
    from em_platform.simulation.tilt_series.sample_volume import sample_volume
    from em_platform.simulation.tilt_series.truth import read_truth

    backend = backend_of("embedded", workers=len(os.sched_getaffinity(0)))
    [made] = simulate(plan, simulations, backend=backend, stacks=(0,))
    with assembling(plan, library=simulations / LIBRARY) as sample_of:
        sample = sample_of(0)
    voxel_nm = _BIN * plan.pixel_nm
    sides_px = plan.camera.height_px, plan.camera.width_px
    shape = round(_DEEP_A / 10 / voxel_nm), sides_px[0] // _BIN, sides_px[1] // _BIN
    volume = sample_volume(sample, shape=shape, voxel_nm=voxel_nm)
    with whole_folder(folder, "cryo-EM session") as own:
        for movie in sorted((made.folder / "frames").iterdir()):
            shutil.copyfile(movie, own / movie.name)
        mdoc = f"{made.name}.mrc.mdoc"
        shutil.copyfile(made.folder / mdoc, own / mdoc)
        write_mrc(own / _SAMPLE, volume, pixel_size_a=10 * voxel_nm, is_volume=True)
        truth = _session_truth(read_truth(made.folder), plan)
        _write_facts(own, _own_settings(plan), truth)


def particle_plan() -> "ParticlePlan":
    """The plan of the micrographs."""
    from em_platform.simulation.single_particles import ParticlePlan

    return ParticlePlan(
        views=3,
        particles=20,
        side_px=512,
        pixel_a=3.5,
        # Six times the usual: so few particles of a class have little else to show it.
        signal_to_noise=0.6,
        # Rough, as in the field: its rings are what a CTF is fitted by.
        ice=0.05,
        seed=2,
    )


def write_particle_session(folder: Path, plan: "ParticlePlan", *, movies: int) -> None:
    """Make a session of simulated single particles: movies, settings, truth.

    Parameters
    ----------
    folder
        Of the session; it comes as a whole.
    """
    from em_platform.simulation.single_particles import movie, view_of

    truth = {}
    with whole_folder(folder, "cryo-EM session") as own:
        for number in range(movies):
            stem = f"FoilHole_{number}_fractions"
            frames, still, drift = movie(
                plan, number, frames=_FRAMES, drift_px=_DRIFT_PX
            )
            write_mrc(own / f"{stem}.mrc", frames, pixel_size_a=plan.pixel_a)
            truth[stem] = {
                "drift_px": drift.tolist(),
                "defocus_a": still.defocus_a,
                "particles_px": still.points.tolist(),
                "views": still.views.tolist(),
            }
        views = np.stack([view_of(plan, number) for number in range(plan.views)])
        write_mrc(own / _VIEWS, views, pixel_size_a=plan.pixel_a)
        settings = {
            "pixel_size_a": plan.pixel_a,
            "voltage_kv": plan.voltage_kv,
            "cs_mm": plan.spherical_mm,
            "amplitude_contrast": plan.amplitude_contrast,
            "dose_per_frame": 1.0,
            "particle_diameter_a": plan.diameter_a,
            # Two more than there are views: for what is no particle.
            "classes": plan.views + 2,
        }
        _write_facts(own, settings, {"movies": truth, "views": _VIEWS})


def _write_facts(
    folder: Path, settings: Mapping[str, float], truth: Mapping[str, Any]
) -> None:
    (folder / "session.yaml").write_text(yaml.safe_dump(dict(settings)))
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")


def _own_settings(plan: "Plan") -> dict[str, float]:
    beam, lens = plan.beam, plan.objective
    return {
        "pixel_size_a": round(10 * plan.pixel_nm, 6),
        "voltage_kv": beam.voltage_kv,
        "dose_per_frame": beam.dose_per_tilt_e_per_nm2 / 100 / plan.camera.frames,
        "cs_mm": lens.spherical_mm,
        "amplitude_contrast": lens.amplitude_contrast,
        # Counted from the image's y axis; the plan counts from x.
        "tilt_axis_deg": plan.tilts.axis_deg - 90,
        "tomogram_bin": _BIN,
        "tomogram_thickness_a": _DEEP_A,
    }


def _session_truth(truth: "Truth", plan: "Plan") -> dict[str, object]:
    """The truth as a session has it: in pixels and Å, pairs as `(x, y)`."""
    pixel_nm = plan.pixel_nm
    movies: dict[str, dict[str, object]] = {}
    shifts: dict[str, tuple[float, float]] = {}
    for tilt in truth.tilts:
        stem = f"{truth.stack}_{tilt.order:03d}_{tilt.nominal_deg:.1f}"
        movies[stem] = {
            "drift_px": [(x / pixel_nm, y / pixel_nm) for y, x in tilt.drift_nm],
            "defocus_a": 10 * sum(tilt.defocus_nm) / 2,
        }
        y, x = tilt.shift_nm
        shifts[f"{tilt.nominal_deg:.2f}"] = (x / pixel_nm, y / pixel_nm)
    return {
        "movies": movies,
        "tilt_shifts_px": {truth.stack: shifts},
        "samples": {truth.stack: _SAMPLE},
    }
