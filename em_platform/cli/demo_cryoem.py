"""The demo's session of cryo-EM: a simulated tilt series, and what Dagster makes of it.

Only here, and in tests, the simulation and the processing meet: the processing sees
movies, an mdoc and a file of truths, as of any session.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from em_platform.cli.console_output import ConsoleOutput, short
from em_platform.cli.demo_simulation import put_particle
from em_platform.cli.platform import Platform
from em_platform.cli.runs import (
    PATIENCE_S,
    PartitionRuns,
    complaints,
    cryoem_runs,
    progress,
)

if TYPE_CHECKING:
    from em_platform.simulation.tilt_series.plan import Plan
    from em_platform.simulation.tilt_series.truth import Truth

_TICK_S = 2.0  # each look asks the web UI for the events of all runs
_SESSION = "demo"
_PARTICLE = "demo.mrc"
_SAMPLE = "sample.map"  # an `.mrc` would be taken for a movie
_BIN = 4
_DEEP_A = 800.0  # somewhat more than the ice
_OF_MOVIES = ("motion_matches_truth", "defocus_matches_truth")
_OF_SERIES = ("shifts_match_truth", "tomogram_matches_truth")
_PLAN = {
    "name": "demo",
    "seed": 1,
    "pixel_nm": 0.4,
    "tilts": {"first_deg": -48, "step_deg": 6, "tilts": 17, "axis_deg": 90},
    # Ten times the usual dose: images of 256 pixels have little else to be fitted by.
    "beam": {"dose_per_tilt_e_per_nm2": 3000},
    "camera": {"width_px": 256, "height_px": 256, "frames": 4},
    "ice": {"thickness_nm": 60},
    "errors": {"shift_nm": 2, "drift_nm_per_frame": 0.4, "radiation_damage": False},
    "assembly": {"kind": "crowded", "options": {"counts": {"particle": 80}}},
    "beads": {"count": 10, "diameter_nm": 6},
    "outputs": {"label_pixels": 0, "previews": False},
}


def demo_plan(folder: Path) -> "Plan":
    """The plan of the tilt series; `folder` gets the particle that it names."""
    from em_platform.simulation.tilt_series.plan import Plan

    folder.mkdir(parents=True, exist_ok=True)
    put_particle(folder / _PARTICLE)
    # Smaller than in the other demo: so many have room in so little ice.
    particle = {"file": str(folder / _PARTICLE), "name": "particle", "voxel_nm": 0.6}
    return Plan.model_validate({**_PLAN, "particles": [particle]})


def write_session(folder: Path, plan: "Plan", *, simulations: Path) -> None:
    """Make a session of a simulated tilt series: movies, mdoc, settings, truth.

    Parameters
    ----------
    folder
        Of the session; it comes as a whole.
    simulations
        Where the simulation keeps what it makes.
    """
    from em_platform.cryoem.image_files import write_mrc
    from em_platform.simulation.tilt_series.backends import backend_of
    from em_platform.simulation.tilt_series.data_set import LIBRARY, simulate
    from em_platform.simulation.tilt_series.sample import assembling
    from em_platform.simulation.tilt_series.sample_volume import sample_volume
    from em_platform.simulation.tilt_series.truth import read_truth
    from em_platform.storage.guard import whole_folder

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
        (own / "session.yaml").write_text(yaml.safe_dump(_own_settings(plan)))
        truth = read_truth(made.folder)
        content = json.dumps(_session_truth(truth, plan), indent=1)
        (own / "truth.json").write_text(content + "\n")


def process_one(platform: Platform, output: ConsoleOutput) -> bool:
    """Have a session's tilt series processed; whether all agrees with its truth.

    The session is put where sessions arrive, and the sensor finds it. One that a former
    call has made is kept.
    """
    settings = platform.settings
    folder = Path(settings.cryoem.sessions) / _SESSION
    if not folder.is_dir():
        plans = settings.home.absolute() / "cryoem_simulation"
        write_session(folder, demo_plan(plans / "plan"), simulations=plans / "stacks")
    stems = sorted(json.loads((folder / "truth.json").read_bytes())["movies"])
    output.line(f"session {short(folder)}: a tilt series of {len(stems)} movies")
    series = f"{_SESSION}~{stems[0].rsplit('_', 2)[0]}"
    last_steps = {f"{_SESSION}~{stem}": "ctf_fits" for stem in stems}
    runs = _followed(platform, {**last_steps, series: "thumbnails"}, output)
    movies = [runs[key] for key in last_steps]
    good = all(each.is_good for each in runs.values())
    for name in _OF_MOVIES:
        good &= _show(name, movies, output)
    for name in _OF_SERIES:
        good &= _show(name, [runs[series]], output)
    for key, each in runs.items():
        for line in complaints(each):
            output.line(f"{key}: {line}")
    output.line(f"results: {short(Path(settings.cryoem.results) / _SESSION)}")
    return good


def _followed(
    platform: Platform, last_steps: Mapping[str, str], output: ConsoleOutput
) -> dict[str, PartitionRuns]:
    """Print what happens until all is finished; partition -> its runs.

    The tilt series is the last of `last_steps`.
    """
    runs = {key: PartitionRuns() for key in last_steps}
    *_, series = last_steps
    newest = time.monotonic()
    while not all(each.is_over for each in runs.values()):
        if platform.supervisor.stopping.wait(_TICK_S):
            break
        platform.supervisor.tend()
        open_ones = {k: step for k, step in last_steps.items() if not runs[k].is_over}
        for key, now in cryoem_runs(platform.url, of=open_ones).items():
            # Of the many movies only the end and failures.
            shown = now if key == series else replace(now, assets=[])
            for line in progress(key, runs[key], shown):
                output.line(line)
                newest = time.monotonic()
            runs[key] = now
        if any(each.status in ("FAILURE", "CANCELED") for each in runs.values()):
            break  # without one of its movies the tilt series would never come
        if time.monotonic() > newest + PATIENCE_S:
            output.line(f"nothing new for {PATIENCE_S:.0f} s; see the web UI")
            break
    return runs


def _show(name: str, runs: list[PartitionRuns], output: ConsoleOutput) -> bool:
    """Print one check by its worst outcome; whether all runs have it and passed."""
    outcomes = [each.checks[name] for each in runs if name in each.checks]
    passed = sum(each.passed for each in outcomes)
    line = f"{name}: {passed} of {len(runs)} passed"
    if outcomes:
        worst = max(outcomes, key=lambda each: each.value or 0.0)
        line += f"; {worst.sentence}"
    output.result(line)
    return passed == len(runs)


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
