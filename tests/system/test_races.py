"""A few races of writers of one output; `benchmarks/bench_races.py` runs hundreds."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_writers_of_one_output_leave_it_whole_or_say_who_writes(
    repository: Path,
) -> None:
    # Politely: it computes all the time, and tests beside it wait for answers.
    command = ["nice", "-n", "5", sys.executable]
    command += ["benchmarks/bench_races.py", "--count", "2"]
    done = subprocess.run(
        command, cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 2 races ended wrongly" in done.stdout
