"""`em-platform demo montages`: what it says when a check fails."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_the_demo_ends_with_an_error_when_a_check_fails(
    make_platform, tmp_path: Path
) -> None:
    with make_platform(tmp_path / "home") as platform:
        strict = {"EM_STITCHING__QUALITY__MIN_FOCUS": "1"}
        done = subprocess.run(
            (
                *(sys.executable, "-m", "em_platform", "demo", "montages", "--exit"),
                *("--montages", "1", "--home", str(platform.home)),
            ),
            env=platform.environment | strict,
            capture_output=True,
            text=True,
            timeout=550,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        assert "NOT all is as it should be" in done.stdout
        assert "ERROR: " in done.stdout
