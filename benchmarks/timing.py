"""How every benchmark measures: contenders take turns; the least of N rounds counts.

    def ours(): ...
    def peer(): ...

    assert_close(ours(), peer())                # accuracy before speed
    costs = measure({"ours": ours, "peer": peer}, repeats=5)
    report("fused tile kernel", costs, wanted={"peer": 12.0})

CPU seconds are user + system time of this process and of its ended children; they move
far less than wall time on a busy computer, so ratios are taken from them. The first
contender is ours: the ratio of each other one is its CPU seconds over ours.

A contender in another process (a peer in its own environment) may return a `Cost` that
it measured itself, without the start of its interpreter; then that counts.
"""

import argparse
import gc
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent.parent / ".bench"
"""Environments of the peers (see peers.py); not under version control."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run cost; `peak_mb` only where the contender can tell."""

    cpu_s: float
    wall_s: float
    peak_mb: float | None = None


def cpu_seconds() -> float:
    """User + system seconds of this process and of its ended children so far."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def cost_of(run: Callable[[], object]) -> Cost:
    """Cost of one call, or the `Cost` that the call itself returns."""
    gc.collect()
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = run()
    cost = Cost(cpu_s=cpu_seconds() - cpu, wall_s=time.perf_counter() - wall)
    return result if isinstance(result, Cost) else cost


def measure(
    contenders: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 5,
    warm_up: int = 1,
) -> dict[str, Cost]:
    """The least CPU and wall seconds of each contender over `repeats` rounds.

    In each round every contender runs once, so that a slow minute of the computer hits
    all of them. `warm_up` rounds before (compilation, caches of files) do not count.
    """
    for _ in range(warm_up):
        for run in contenders.values():
            run()
    runs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            runs[name].append(cost_of(run))
    return {name: _least(costs) for name, costs in runs.items()}


def _least(costs: Sequence[Cost]) -> Cost:
    peaks = [cost.peak_mb for cost in costs if cost.peak_mb is not None]
    return Cost(
        cpu_s=min(cost.cpu_s for cost in costs),
        wall_s=min(cost.wall_s for cost in costs),
        peak_mb=min(peaks) if peaks else None,
    )


def ratios(costs: Mapping[str, Cost]) -> dict[str, float]:
    """CPU seconds of each contender over those of the first one, which is ours."""
    ours = next(iter(costs.values()))
    return {name: cost.cpu_s / ours.cpu_s for name, cost in costs.items()}


def report(
    title: str,
    costs: Mapping[str, Cost],
    *,
    accuracy: Mapping[str, float | str] | None = None,
    wanted: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Print a table of one measurement and return the same as a dict.

    Parameters
    ----------
    accuracy
        Name of a figure -> value; printed under the table.
    wanted
        Contender -> the ratio that we promise; `passed` says whether all are kept.
    """
    wanted = wanted or {}
    ratio = ratios(costs)
    width = max(len(name) for name in costs)
    print(f"\n{title}  [{computer()}]")
    print(f"  {'':{width}}  {'CPU s':>9} {'wall s':>9} {'peak MB':>8} {'ratio':>8}")
    for name, cost in costs.items():
        peak = "-" if cost.peak_mb is None else f"{cost.peak_mb:.0f}"
        goal = f"  wanted >= {wanted[name]:g}" if name in wanted else ""
        print(
            f"  {name:{width}}  {cost.cpu_s:9.4f} {cost.wall_s:9.4f} {peak:>8} "
            f"{ratio[name]:8.2f}{goal}"
        )
    for name, value in (accuracy or {}).items():
        print(
            f"  {name}: {value:.5g}"
            if isinstance(value, float)
            else f"  {name}: {value}"
        )
    missed = [name for name, goal in wanted.items() if ratio.get(name, 0.0) < goal]
    if missed:
        print(f"  MISSED: {', '.join(missed)}")
    return {
        "title": title,
        "computer": computer(),
        "costs": {name: asdict(cost) for name, cost in costs.items()},
        "ratios": ratio,
        "accuracy": dict(accuracy or {}),
        "wanted": dict(wanted),
        "passed": not missed,
    }


def computer() -> str:
    """The processor and what else moves the figures, in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        model = next(
            (x.split(":")[1].strip() for x in lines if "model name" in x), model
        )
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Python {platform.python_version()}"


def arguments(
    description: str, *, repeats: int = 5, cases: Sequence[str] = ()
) -> argparse.Namespace:
    """Options that all benchmarks share: --repeats, --quick, --json.

    One of several `cases` also has --only.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--quick", action="store_true", help="small data, few repeats")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    if cases:
        parser.add_argument(
            "--only", nargs="+", choices=cases, default=cases, help="these cases alone"
        )
    return parser.parse_args()


def finish(reports: Sequence[dict[str, Any]], *, path: Path | None = None) -> int:
    """Write the figures where asked; 0 when every promise is kept, else 1."""
    if path is not None:
        path.write_text(json.dumps(list(reports), indent=1, default=float))
    return 0 if all(report["passed"] for report in reports) else 1
