"""Run every benchmark and print one table: `python -m benchmarks [--quick] [NAME ...]`.

Each `bench_<name>.py` runs in a process of its own and writes its figures as JSON. The
status is 0 when every promised ratio is kept. Others have options of their own:
`python -m benchmarks house` measures the source, `python -m benchmarks faults` kills
processes at many random moments, `python -m benchmarks fuzz` reads broken input, and
`python -m benchmarks soak` runs a platform for hours.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import faults, house

FOLDER = Path(__file__).resolve().parent


def main() -> int:
    if sys.argv[1:2] == ["house"]:
        return house.main(sys.argv[2:])
    if sys.argv[1:2] == ["faults"]:
        return faults.main(sys.argv[2:])
    if sys.argv[1:2] == ["fuzz"]:
        # It loads the readers, which no other benchmark needs here.
        from benchmarks import fuzz

        return fuzz.main(sys.argv[2:])
    if sys.argv[1:2] == ["soak"]:
        from benchmarks import soak

        return soak.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these, e.g. align render")
    parser.add_argument("--quick", action="store_true", help="small data, few repeats")
    parser.add_argument("--json", type=Path, help="write all figures here too")
    given = parser.parse_args()
    paths = {
        p.stem.removeprefix("bench_"): p for p in sorted(FOLDER.glob("bench_*.py"))
    }
    unknown = [name for name in given.names if name not in paths]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(paths)}")
    reports: dict[str, list[dict[str, Any]]] = {}
    failed = []
    for name in given.names or paths:
        print(f"\n=== {name} ===", flush=True)
        status, reports[name] = run(paths[name], quick=given.quick)
        if status:
            failed.append(name)
    if given.json:
        given.json.write_text(json.dumps(reports, indent=1))
    print_table(reports)
    if failed:
        print(f"\nnot as promised, or ended with an error: {', '.join(failed)}")
    return 1 if failed else 0


def run(path: Path, *, quick: bool) -> tuple[int, list[dict[str, Any]]]:
    """The status of one benchmark and what it reported."""
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, str(path), "--json", str(figures)]
        command += ["--quick"] if quick else []
        status = subprocess.run(command, env=environment, check=False).returncode
        found = json.loads(figures.read_text()) if figures.is_file() else []
    return status, found


def print_table(reports: dict[str, list[dict[str, Any]]]) -> None:
    """One line a contender: CPU seconds, and how much less ours takes."""
    print(f"\n{'benchmark':60}  {'contender':24} {'CPU s':>9} {'ratio':>7}  promised")
    for found in reports.values():
        for report in found:
            for name, cost in report["costs"].items():
                goal = report["wanted"].get(name)
                kept = goal is None or report["ratios"][name] >= goal
                promised = (
                    "" if goal is None else f">= {goal:g}{'' if kept else ' MISSED'}"
                )
                print(
                    f"{report['title'][:60]:60}  {name[:24]:24} {cost['cpu_s']:9.3f} "
                    f"{report['ratios'][name]:7.2f}  {promised}"
                )
            for name, value in report["accuracy"].items():
                print(f"{'':60}  {name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
