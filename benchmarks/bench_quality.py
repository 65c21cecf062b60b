"""Benchmark 8: does the focus score see focus, and is the estimated flat field right.

    python benchmarks/bench_quality.py [--quick] [--repeats N] [--json FILE]

Focus: tiles of simulated tissue, blurred by 0 to 3 px, then with shot noise at two
doses; each value relative to the same tile in focus. Peer: Laplacian variance.
Flat field: tiles with a known vignette, fixed pattern, dust, flicker and shot noise;
relative rms error of the field after correction. Peers: mean of all tiles smoothed
(Gaussian, sigma 60), and basicpy where `.bench/basicpy` exists: its torch (gigabytes)
is not installed for a benchmark.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from timing import BENCH, Cost, arguments, finish, measure, report

from em_platform.imaging.correct import estimate_flat_field
from em_platform.imaging.exposure import beam_level, camera_gain, defocused, expose
from em_platform.imaging.focus import focus_score
from em_platform.imaging.resample import halve
from em_platform.simulation.specimen.tissue import tissue

Float = NDArray[np.float32]
Grey = NDArray[np.uint8]

DOSES = (400.0, 100.0)  # electrons a pixel at grey level 255
SIGMAS_PX = (0.0, 1.0, 2.0, 3.0)
MAX_FOCUS_AT_3_PX, MAX_FIELD_ERROR = 0.25, 0.012


def make_light(count: int, side: int) -> list[Float]:
    """Tissue of `count` places that do not overlap."""
    return [
        tissue(5000 * i, 3000 * i, height=side, width=side, section=3 * i, seed=i)
        for i in range(count)
    ]


def laplacian_variance(image: Grey) -> float:
    return float(cv2.Laplacian(image, cv2.CV_32F).var())


def half_laplacian_variance(image: Grey) -> float:
    return laplacian_variance(np.asarray(halve(image), np.uint8))


def bench_focus(lights: Sequence[Float], *, repeats: int) -> dict[str, Any]:
    metrics: dict[str, Callable[[Grey], float]] = {
        "em_platform": focus_score,
        "Laplacian variance": laplacian_variance,
        "Laplacian variance, half resolution": half_laplacian_variance,
    }
    values = {name: np.zeros((2, 4, len(lights))) for name in metrics}
    for d, dose in enumerate(DOSES):
        for s, sigma in enumerate(SIGMAS_PX):
            for i, light in enumerate(lights):
                seen = defocused(light, sigma) if sigma else light
                frame = expose(seen, noise_key=(d, s, i), electrons=dose)
                for name, metric in metrics.items():
                    values[name][d, s, i] = metric(np.asarray(frame, np.uint8))
    accuracy: dict[str, float | str] = {}
    for name, value in values.items():
        relative = (value / value[:, :1]).mean(axis=(0, 2))
        text = " -> ".join(f"{r:.3f}" for r in relative)
        accuracy[f"{name}: blur 0, 1, 2, 3 px"] = text
        spread = float((value[:, 0].std(axis=1) / value[:, 0].mean(axis=1)).mean())
        accuracy[f"{name}: spread between tiles in focus"] = spread
    ours = values["em_platform"]
    worst = float((ours[:, 3] / ours[:, 0]).max())
    accuracy["em_platform: largest value at 3 px (at most 0.25)"] = worst
    frame = np.asarray(expose(lights[0], noise_key=(0,)), np.uint8)
    costs = measure(
        {name: lambda m=metric: m(frame) for name, metric in metrics.items()},
        repeats=repeats,
    )
    result = report("8a. focus", costs, accuracy=accuracy)
    return result | {"passed": worst <= MAX_FOCUS_AT_3_PX}


def field_error(estimated_gain: Float, truth: Float) -> float:
    """Relative rms of what is left of the field in 64 x 64 cells."""
    left = cv2.resize(estimated_gain * truth, (64, 64), interpolation=cv2.INTER_AREA)
    return float(np.sqrt(np.mean((left / np.median(left) - 1.0) ** 2)))


def by_smoothed_mean(tiles: Sequence[Grey]) -> Float:
    mean = np.mean([tile.astype(np.float32) for tile in tiles], axis=0)
    smooth = cv2.GaussianBlur(mean, (0, 0), 60)
    return np.asarray(smooth.mean() / smooth, np.float32)


BASICPY = """
import json, sys, time, numpy as np
from basicpy import BaSiC
tiles = np.load(sys.argv[1])
wall, cpu = time.perf_counter(), time.process_time()
basic = BaSiC(get_darkfield=False)
basic.fit(tiles)
cost = (time.process_time() - cpu, time.perf_counter() - wall)
np.save(sys.argv[2], np.asarray(basic.flatfield, np.float32))
print(json.dumps(cost))
"""


def has_basicpy() -> bool:
    python = BENCH / "basicpy" / "bin" / "python"
    asked = [str(python), "-c", "import basicpy"]
    return (
        python.is_file()
        and not subprocess.run(asked, capture_output=True, check=False).returncode
    )


def by_basicpy(tiles: Sequence[Grey]) -> tuple[Float, Cost]:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "tiles.npy", Path(folder) / "field.npy"
        np.save(given, np.stack(tiles))
        python = BENCH / "basicpy" / "bin" / "python"
        command = [str(python), "-c", BASICPY, str(given), str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        cpu_s, wall_s = json.loads(done.stdout.splitlines()[-1])
        field = np.load(made)
    size = tiles[0].shape[::-1]
    field = cv2.resize(field, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(field.mean() / field, np.float32), Cost(
        cpu_s=cpu_s, wall_s=wall_s
    )


def bench_flat_field(lights: Sequence[Float], *, repeats: int) -> dict[str, Any]:
    side = lights[0].shape[0]
    camera = camera_gain(side, side, seed=7)
    truth = camera_gain(side, side, seed=7, pattern=0.0, dust=0)
    tiles = [
        np.asarray(
            expose(light, noise_key=(7, i), gain=camera, beam=beam_level(i, seed=7)),
            np.uint8,
        )
        for i, light in enumerate(lights)
    ]
    error = field_error(estimate_flat_field(tiles).gain, truth)
    few = field_error(estimate_flat_field(tiles[:4]).gain, truth)
    accuracy: dict[str, float | str] = {
        "error without correction": field_error(np.ones_like(truth), truth),
        f"em_platform, {len(tiles)} tiles (at most 0.012)": error,
        "em_platform, 4 tiles": few,
        "smoothed mean": field_error(by_smoothed_mean(tiles), truth),
    }
    costs = measure(
        {
            "em_platform": lambda: estimate_flat_field(tiles),
            "smoothed mean": lambda: by_smoothed_mean(tiles),
        },
        repeats=repeats,
    )
    if has_basicpy():
        gain, costs["basicpy"] = by_basicpy(tiles)
        accuracy["basicpy"] = field_error(gain, truth)
    else:
        accuracy["basicpy"] = "left out, not installed in .bench/basicpy"
    result = report(f"8b. flat field, {len(tiles)} tiles", costs, accuracy=accuracy)
    return result | {"passed": error <= MAX_FIELD_ERROR}


def main() -> int:
    options = arguments(__doc__.splitlines()[0], repeats=3)
    lights = make_light(*((25, 1024) if options.quick else (25, 2048)))
    reports = [
        bench_focus(lights[:8], repeats=options.repeats),
        bench_flat_field(lights, repeats=options.repeats),
    ]
    return finish(reports, path=options.json)


if __name__ == "__main__":
    sys.exit(main())
