"""Simulated tilt series: agreement and speed beside TEM-simulator, workers, memory.

    python -m benchmarks tilt_series [--quick]

TEM-simulator 1.3 (Rullgård et al. 2011) is taken from PATH, or built from its public
sources in `.bench/tem-simulator`. Without it only our own figures come out.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile

from benchmarks.peers import PeerMissing, tem_simulator
from benchmarks.tilt_series_case import (
    count_ratio,
    plan_for,
    ring_correlations,
    tem_simulator_input,
)
from benchmarks.timing import Cost, arguments, cost_of, finish, report
from em_platform.simulation.tilt_series.backends.embedded import Embedded
from em_platform.simulation.tilt_series.data_set import LIBRARY, simulate
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.quality import check_counts
from em_platform.simulation.tilt_series.sample import assembling
from em_platform.simulation.tilt_series.series import tilts_of
from em_platform.simulation.tilt_series.truth import Truth
from em_platform.stitching.compute import local_map, peak_memory_mb

# What is promised.
_LEAST_FRC = 0.9  # to half of Nyquist, at 0 and +-30 degrees
_MOST_OFF_COUNTS = 0.01  # of dose x pixel area x transmission
_MOST_UNEXPLAINED = 0.005  # of the counts beside TEM-simulator's
_SPEED = 5.0  # CPU seconds at 1024^2 x 41 tilts x 200 particles
_WORKERS = 1.7  # wall time of one worker over that of two
_IDLE = 0.5  # load of a computer on which wall times count
_MOST_GROWTH_MB = 32  # with four times the tilts, and with eight times the particles


def bench_case(
    title: str,
    binary: Path | None,
    *,
    repeats: int,
    wanted: float | None = None,
    **case: Any,
) -> dict[str, Any]:
    """Speed and agreement of one case; the least of `repeats` runs counts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = plan_for(folder, **case)
        _simulated(plan, folder / "kept")  # compiles, and makes the map
        weak = plan.model_copy(update={"mode": "linear"})
        _simulated(weak, folder / "compiled")
        runs: dict[str, Callable[[], object]] = {
            "em_platform": lambda: _simulated(plan, folder / "run"),
            "em_platform, linear": lambda: _simulated(weak, folder / "run"),
        }
        if binary:
            with assembling(plan, library=folder / LIBRARY) as sample_of:
                path = tem_simulator_input(plan, sample_of(0), folder)
            command = [str(binary), path.name]
            runs["TEM-simulator"] = lambda: _run(command, folder)
        costs = _in_turn(runs, repeats)
        ours = folder / "kept" / "case-0000"
        truth = Truth.model_validate_json((ours / "truth.json").read_text())
        off = check_counts(ours, truth).value or 0.0
        accuracy: dict[str, Any] = {"mean counts off by, most of all tilts": off}
        missed = [] if off < _MOST_OFF_COUNTS else ["counts"]
        if binary:
            found, wrong = _agreement(plan, ours, folder)
            accuracy, missed = accuracy | found, missed + wrong
    goal = {"TEM-simulator": wanted} if binary and wanted else {}
    return _judged(report(title, costs, accuracy=accuracy, wanted=goal), missed)


def bench_workers(*, repeats: int, **case: Any) -> dict[str, Any]:
    """Wall time of one worker over that of two, measured and of an idle computer.

    The latter by CPU seconds: those of the main thread are spent by one core, those of
    the workers by both.
    """
    mains: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = plan_for(folder, **case)
        _simulated(plan, folder / "kept")

        def run(workers: int) -> None:
            before = time.thread_time()
            _simulated(plan, folder / "run", workers=workers)
            if workers == 2:
                mains.append(time.thread_time() - before)

        load = os.getloadavg()[0]
        costs = _in_turn(
            {"1 worker": lambda: run(1), "2 workers": lambda: run(2)}, repeats
        )
    one, two, main = costs["1 worker"], costs["2 workers"], min(mains)
    wall = one.wall_s / two.wall_s
    idle = one.cpu_s / (main + (two.cpu_s - main) / 2)
    accuracy = {
        f"wall time, measured at a load of {load:.1f} besides": wall,
        "wall time on idle cores, by CPU seconds": idle,
        "CPU seconds of the main thread, with 2 workers": main,
    }
    is_kept = max(wall, idle if load > _IDLE else 0) >= _WORKERS
    title = f"1 worker / 2 workers, {plan.camera.width_px}^2 x 41 tilts"
    found = report(title, costs, accuracy=accuracy)
    return _judged(found, [] if is_kept else ["wall time of two workers"])


def bench_memory(*, side_px: int) -> dict[str, Any]:
    """The peak of a process for more tilts and for more particles, two workers."""
    base = {"side_px": side_px, "pixel_nm": 0.5, "particles": side_px // 8, "tilts": 41}
    cases = {
        "the case": base,
        "4 x the tilts": base | {"tilts": 4 * 41},
        "8 x the particles": base | {"particles": side_px},
    }
    costs = {}
    for name, case in cases.items():
        done = subprocess.run(
            [sys.executable, __file__, "--peak-of", json.dumps(case)],
            check=True,
            capture_output=True,
        )
        costs[name] = Cost(**json.loads(done.stdout))
    least = costs["the case"].peak_mb
    growth = {f"more MB, {name}": c.peak_mb - least for name, c in costs.items()}
    stack_mb = 2 * 4 * side_px**2 * 4 * 41 / 2**20
    title = f"memory, {side_px}^2; the stacks of 4 x the tilts have {stack_mb:.0f} MB"
    found = report(title, costs, accuracy=growth)
    return _judged(found, [name for name, mb in growth.items() if mb > _MOST_GROWTH_MB])


def _peak_of(case: dict[str, Any]) -> None:
    """Print what one stack costs a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        plan = plan_for(Path(name), **case)
        cost = cost_of(lambda: _simulated(plan, Path(name) / "run", workers=2))
    found = {"cpu_s": cost.cpu_s, "wall_s": cost.wall_s, "peak_mb": peak_memory_mb()}
    print(json.dumps(found))


def _in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, Cost]:
    rounds = [
        {name: cost_of(run) for name, run in runs.items()} for _ in range(repeats)
    ]
    return {
        name: Cost(
            cpu_s=min(each[name].cpu_s for each in rounds),
            wall_s=min(each[name].wall_s for each in rounds),
        )
        for name in runs
    }


def _simulated(plan: Plan, output: Path, *, workers: int = 1) -> None:
    list(simulate(plan, output, backend=Embedded(local_map(workers))))
    if output.name != "kept":
        shutil.rmtree(output)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _agreement(
    plan: Plan, ours: Path, folder: Path
) -> tuple[dict[str, float | str], list[str]]:
    """Figures of images at 0 and +-30 degrees, and what is not as promised."""
    found: dict[str, float | str] = {}
    missed = []
    quarter = (plan.tilts.tilts - 1) // 4  # of the range, from -60 to 60 degrees
    with (
        mrcfile.open(ours / "case-0000_clean.mrc") as one,
        # Its file has an invalid header.
        mrcfile.mmap(folder / "clean.mrc", permissive=True) as two,
    ):
        for tilt in tilts_of(plan, 0)[quarter : 3 * quarter + 1 : quarter]:
            a, b = one.data[tilt.index], two.data[tilt.index]
            at = f"{tilt.tilt_deg:g} deg"
            frc, gains = ring_correlations(b, a)
            counts = float(a.mean() / b.mean())
            explained = count_ratio(plan, tilt)
            found[f"least FRC to half Nyquist, {at}"] = min(frc)
            found[f"gain ours / theirs, {at}"] = f"{min(gains):.3f} to {max(gains):.3f}"
            found[f"mean counts ours / theirs, {at}"] = counts
            found[f"the same by its sum over angles, {at}"] = explained
            missed += [f"FRC, {at}"] * (min(frc) < _LEAST_FRC)
            off = abs(counts / explained - 1)
            missed += [f"counts beside its own, {at}"] * (off > _MOST_UNEXPLAINED)
    with (
        mrcfile.mmap(ours / "case-0000.mrc") as one,
        mrcfile.mmap(folder / "noisy.mrc", permissive=True) as two,
    ):
        ratio = float(one.data[2 * quarter].std()) / float(two.data[2 * quarter].std())
        found["noisy standard deviation ours / theirs"] = ratio
    return found, missed


def _judged(found: dict[str, Any], missed: list[str]) -> dict[str, Any]:
    if missed:
        print(f"  NOT AS PROMISED: {', '.join(missed)}")
    return found | {"passed": found["passed"] and not missed}


def main() -> int:
    if sys.argv[1:2] == ["--peak-of"]:
        _peak_of(json.loads(sys.argv[2]))
        return 0
    given: argparse.Namespace = arguments(__doc__.splitlines()[0], repeats=1)
    try:
        binary = tem_simulator()
    except PeerMissing as error:
        binary = None
        print(f"left out: {error}")
    small = {"side_px": 256, "pixel_nm": 1.0, "particles": 40}
    large = {"side_px": 1024, "pixel_nm": 0.5, "particles": 200}
    repeats = 1 if given.quick else given.repeats
    title = "256^2 x 41 tilts, 40 particles, 1 nm"
    reports = [bench_case(title, binary, repeats=repeats, **small)]
    if given.quick:
        reports += [bench_workers(repeats=1, **small), bench_memory(side_px=256)]
        return finish(reports, path=given.json)
    title = "1024^2 x 41 tilts, 200 particles, 0.5 nm"
    reports += [
        bench_case(title, binary, repeats=repeats, wanted=_SPEED, **large),
        bench_workers(repeats=repeats, **large),
        bench_memory(side_px=512),
    ]
    return finish(reports, path=given.json)


if __name__ == "__main__":
    sys.exit(main())
