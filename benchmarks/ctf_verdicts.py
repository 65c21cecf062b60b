"""Cases of `bench_ctf` about verdicts: images of pure noise, and the demo's tilts."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from timing import Cost, cost_of, report

from em_platform.config.cryoem import CryoemLimits
from em_platform.cryoem.sessions.checks import stage_checks
from em_platform.cryoem.stages import ctf as stage

NOISE_SEED = 8303
"""Not used while the limit was chosen."""
SIDES_PX = 512, 512, 512, 512, 1024, 1024, 1024, 2048, 2048, 4096
MOST_FALSE = 0.01
SERIES_SEEDS = 11, 12, 13
MOST_SLOPE_ERRORS = 3.0


def is_good(found: Any) -> bool:
    """The verdict of the checks in Dagster and of the command line."""
    return all(check.passed for check in stage_checks("ctf", found, CryoemLimits()))


def noise(count: int) -> Iterator[np.ndarray]:
    """Images of counted electrons and of a Gaussian, in turns."""
    rng = np.random.default_rng(NOISE_SEED)
    for number in range(count):
        side = SIDES_PX[number % len(SIDES_PX)]
        if number // len(SIDES_PX) % 2:
            yield rng.standard_normal((side, side), dtype=np.float32)
        else:
            yield rng.poisson(20, (side, side)).astype(np.float32)


def judge_noise(count: int) -> dict[str, Any]:
    """How much of noise has a good CTF by the stage's defaults: a hundredth at most."""
    with tempfile.TemporaryDirectory() as folder:
        made = [_fitted(Path(folder), image) for image in noise(count)]
    costs, found = zip(*made, strict=True)
    good = sum(is_good(each) for each in found)
    rings = sum(each.score > 0 for each in found)
    made_report = report(
        f"CTF of {count} images of pure noise, 512^2 to 4096^2, with their files",
        {"ours": _mean(costs)},
        accuracy={
            "pass as good": f"{good} of {count}",
            "have rings, a score above 0": f"{rings} of {count}",
        },
    )
    return {**made_report, "passed": good <= MOST_FALSE * count}


def judge_series(seeds: int) -> dict[str, Any]:
    """The error of the defocus against the tilt, in the demo's own tilt series."""
    from em_platform.cli.demo_sessions import demo_plan
    from em_platform.simulation.tilt_series.layers import scene_of
    from em_platform.simulation.tilt_series.sample import assembling
    from em_platform.simulation.tilt_series.series import image_tilt, tilts_of

    errors, rise, costs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SERIES_SEEDS[:seeds]:
            plan = demo_plan(Path(folder) / "plan", tilts=17)
            # One frame: nothing moves, as after the correction of motion.
            camera = plan.camera.model_copy(update={"frames": 1})
            plan = plan.model_copy(update={"seed": seed, "camera": camera})
            with assembling(plan, library=Path(folder) / "library") as sample_of:
                scene = scene_of(sample_of(0), pixel_nm=plan.pixel_nm)
            for tilt in tilts_of(plan, 0):
                image = image_tilt(plan, 0, tilt, scene=scene).noisy
                given = {
                    "pixel_size": 10 * plan.pixel_nm,
                    "ampl_contrast": plan.objective.amplitude_contrast,
                    "tilt_deg": tilt.nominal_deg,
                    "axis_deg": plan.tilts.axis_deg - 90,
                }
                cost, found = _fitted(Path(folder), image, **given)
                costs.append(cost)
                middle = (found.defocus_u_a + found.defocus_v_a) / 2
                true = 10 * (tilt.defocus.u_nm + tilt.defocus.v_nm) / 2
                errors.append(middle - true)
                rise.append(1 - np.cos(np.deg2rad(tilt.nominal_deg)))
    (slope, level), covariance = np.polyfit(rise, errors, 1, cov=True)
    slope_error = float(np.sqrt(covariance[0, 0]))
    sizes = np.abs(errors)
    made = report(
        f"CTF of {len(errors)} images of {seeds} of the demo's tilt series",
        {"ours": _mean(costs)},
        accuracy={
            "defocus, median, worst (Å)": f"{np.median(sizes):.0f}, {max(sizes):.0f}",
            "error at 0 degrees (Å)": float(level),
            "error by 1 - cos(tilt) (Å)": f"{slope:.0f} ± {slope_error:.0f}",
        },
    )
    return {**made, "passed": abs(slope) <= MOST_SLOPE_ERRORS * slope_error}


def _fitted(folder: Path, image: np.ndarray, **given: Any) -> tuple[Cost, stage.Result]:
    """What the stage finds in an image with its defaults, and what that costs."""
    path = folder / "image.mrc"
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(image)
    values = {"input_image": path, "pixel_size": 1.06, **given}
    parameters = stage.Parameters.model_validate(values)
    found: list[stage.Result] = []
    cost = cost_of(lambda: found.append(stage.run(parameters, folder)))
    return cost, found[0]


def _mean(costs: Sequence[Cost]) -> Cost:
    return Cost(
        cpu_s=float(np.mean([each.cpu_s for each in costs])),
        wall_s=float(np.mean([each.wall_s for each in costs])),
    )
