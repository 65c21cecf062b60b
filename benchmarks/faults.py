"""Kill at many random moments: `python -m benchmarks faults [--repeat N] [NAME ...]`.

The suite kills each part once and an ingest three times; this does it for minutes, with
new random moments each time. The names are those of FILES; without one all are run.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SYSTEM = "tests/system"
FILES = {
    "platform": f"{SYSTEM}/test_kill.py",
    "ingest": f"{SYSTEM}/test_ingest_killed.py",
    "coordinator": f"{SYSTEM}/test_coordinator.py",
    "recorder": f"{SYSTEM}/test_recorder_killed.py",
    "cryoem": f"{SYSTEM}/test_rabbitmq.py",
    "table": f"{SYSTEM}/faults/test_fault_table.py",
    "own": f"{SYSTEM}/faults/test_own_faults.py",
}


def main(arguments: list[str]) -> int:
    """The status: 0 when nothing was lost or doubled in any round."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks faults", description=__doc__
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FILES)}")
    parser.add_argument("--repeat", type=int, default=1, help="rounds (1)")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in FILES]
    if unknown:
        parser.error(f"no faults {', '.join(unknown)}; there are {', '.join(FILES)}")
    results: list[tuple[str, str, float]] = []
    for number in range(given.repeat):
        for name in given.names or FILES:
            begun_s = time.monotonic()
            status = kill(FILES[name])
            end = "nothing lost" if status == 0 else f"FAILED (status {status})"
            results.append((f"{name} {number + 1}", end, time.monotonic() - begun_s))
    for label, end, seconds in results:
        print(f"{label:20} {end:24} {seconds:7.0f} s")
    return int(any("FAILED" in end for _, end, _ in results))


def kill(path: str) -> int:
    """The status of pytest; the moments of the kills are in what it prints."""
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", path)
    options = ("--many-kills", "-o", "log_cli=true", "-o", "log_cli_level=WARNING")
    return subprocess.run((*command, *options), cwd=REPOSITORY, check=False).returncode
