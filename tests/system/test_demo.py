"""`em-platform demo`, small: from the simulated microscope to checked mosaics."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from em_platform.processes import members

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def demo(
    environment: dict[str, str], *, montages: int
) -> subprocess.CompletedProcess[str]:
    home = environment["EM_HOME"]
    return subprocess.run(
        (
            *(sys.executable, "-m", "em_platform", "demo", "--exit"),
            *("--montages", str(montages), "--home", home),
        ),
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
    )


def test_the_demo_makes_and_checks_two_montages(make_platform, tmp_path: Path) -> None:
    with make_platform(tmp_path / "home") as platform:
        told = demo(platform.environment, montages=2)
        assert told.returncode == 0, told.stdout + told.stderr
        assert "all checks passed" in told.stdout
        assert told.stdout.count("em-platform view") == 2
        assert told.stdout.count("12 of 12") == 2
        assert len(re.findall(r"│ 4 of 4 +│ verified", told.stdout)) == 2
        mosaics = list(platform.home.glob("data/montages/*/mosaic.zarr/zarr.json"))
        assert len(mosaics) == 2
        assert len(list(platform.home.glob("data/records/acquisition/*.json"))) == 2
        assert members(platform.session) == []


def test_the_demo_ends_with_an_error_when_a_check_fails(
    make_platform, tmp_path: Path
) -> None:
    with make_platform(tmp_path / "home") as platform:
        strict = {"EM_STITCHING__QUALITY__MIN_FOCUS": "1"}
        told = demo(platform.environment | strict, montages=1)
        assert told.returncode == 1, told.stdout + told.stderr
        assert "NOT all is as it should be" in told.stdout
        assert "ERROR: " in told.stdout
